"""TODO itpn_ray/models/timm."""
