"""TODO itpn_ray/commands/cache_teacher."""
