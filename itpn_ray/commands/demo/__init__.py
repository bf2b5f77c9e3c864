"""TODO itpn_ray/commands/demo."""
