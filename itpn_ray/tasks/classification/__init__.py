"""TODO itpn_ray/tasks/classification."""
