"""TODO itpn_ray/tasks/pixel_pretraining."""
