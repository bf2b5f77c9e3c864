"""TODO itpn_ray/terminal."""
