"""TODO itpn_ray/runs."""
