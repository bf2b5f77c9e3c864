"""TODO itpn_ray/models/trunk."""
