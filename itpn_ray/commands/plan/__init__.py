"""TODO itpn_ray/commands/plan."""
