"""TODO itpn_ray/tasks/clip_pretraining."""
