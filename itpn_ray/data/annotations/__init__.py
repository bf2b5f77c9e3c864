"""TODO itpn_ray/data/annotations."""
