"""TODO itpn_ray/models/detection/dino."""
