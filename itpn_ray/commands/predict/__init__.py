"""TODO itpn_ray/commands/predict."""
