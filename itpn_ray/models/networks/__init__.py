"""TODO itpn_ray/models/networks."""
