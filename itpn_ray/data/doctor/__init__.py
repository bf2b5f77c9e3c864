"""TODO itpn_ray/data/doctor."""
