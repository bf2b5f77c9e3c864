"""`python -m itpn_ray` is the command line."""

from itpn_ray.cli import main

main()
