"""TODO itpn_ray/commands/verify_resume."""
