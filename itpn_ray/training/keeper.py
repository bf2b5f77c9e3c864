"""The journal of a run under Ray: one actor beside the driver writes what the workers send.

Imports neither PyTorch nor Ray: the actor's process starts in a fraction of a worker's time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itpn_ray.errors import ItpnError
from itpn_ray.training.journal import FileJournal, Journal


class JournalKeeper(FileJournal):
    """The journal as an actor; also keeps the error that ended the run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._fatal: ItpnError | None = None

    def end_with(self, error: ItpnError) -> None:
        """Keep the first error that a restart would meet again."""
        self._fatal = self._fatal or error

    def fatal(self) -> ItpnError | None:
        """The error that ended the run, if any."""
        return self._fatal


class RemoteJournal(Journal):
    """Sends each record to the keeper and does not wait."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Send one record."""
        self._keeper.write.remote(kind, record)
