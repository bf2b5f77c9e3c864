"""TODO itpn_ray/training/checkpoint."""
