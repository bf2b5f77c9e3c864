"""TODO itpn_ray/models/layers."""
