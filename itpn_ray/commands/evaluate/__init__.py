"""TODO itpn_ray/commands/evaluate."""
