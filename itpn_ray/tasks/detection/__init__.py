"""TODO itpn_ray/tasks/detection."""
