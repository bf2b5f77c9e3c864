"""TODO itpn_ray/data/loading."""
