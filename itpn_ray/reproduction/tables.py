"""Every table and figure that can be reproduced, by its name on the command line."""

from __future__ import annotations

from itpn_ray.reproduction.ablations import FIG6, FIG7, TABLE8, TABLE9
from itpn_ray.reproduction.comparisons import FIG5, TABLE3, TABLE4, TABLE5, TABLE6, TABLE7
from itpn_ray.reproduction.grid import Table

TABLES: dict[str, Table] = {
    "table3": TABLE3,
    "table4": TABLE4,
    "table5": TABLE5,
    "table6": TABLE6,
    "table7": TABLE7,
    "table8": TABLE8,
    "table9": TABLE9,
    "fig5": FIG5,
    "fig6": FIG6,
    "fig7": FIG7,
}
