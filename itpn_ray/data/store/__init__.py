"""TODO itpn_ray/data/store."""
