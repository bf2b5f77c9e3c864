"""TODO itpn_ray/data/synthetic."""
