"""TODO itpn_ray/data/transforms."""
