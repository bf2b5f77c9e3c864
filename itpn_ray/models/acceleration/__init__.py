"""TODO itpn_ray/models/acceleration."""
