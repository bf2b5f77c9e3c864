"""TODO itpn_ray/commands/chaos."""
