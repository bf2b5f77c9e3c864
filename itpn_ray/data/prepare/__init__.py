"""TODO itpn_ray/data/prepare."""
