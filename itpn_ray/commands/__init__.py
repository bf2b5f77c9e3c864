"""TODO itpn_ray/commands."""
