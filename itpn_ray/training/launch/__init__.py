"""TODO itpn_ray/training/launch."""
