"""TODO itpn_ray/ray_runtime."""
