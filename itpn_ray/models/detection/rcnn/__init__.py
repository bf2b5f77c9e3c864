"""TODO itpn_ray/models/detection/rcnn."""
