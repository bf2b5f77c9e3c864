"""What looking over any raw data set comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.formatting import number_of


@dataclass(frozen=True, kw_only=True)
class RawHealth:
    """A raw data set.

    Attributes:
        uri: where it is.
        faults: everything that was found.
    """

    uri: str
    faults: FaultList

    @property
    def sound(self) -> bool:
        """Whether everything can be used."""
        return not self.faults.faults

    def verdict(self) -> Iterator[str]:
        """The faults, and what preparation does with them, in words."""
        yield from self.faults.table()
        told = number_of(self.faults.faults, "FAULT", "FAULTS")
        yield "sound" if self.sound else f"{told}: prepare leaves out what is listed"
