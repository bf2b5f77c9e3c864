"""TODO itpn_ray/models/weights."""
