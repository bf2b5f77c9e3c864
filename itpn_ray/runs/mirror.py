"""A run's folder under a URI: worked in on this machine, and kept equal to what lies there.

All of a run but its checkpoints and its lease is small, and written by one driver that holds the
lease. So it is written in a working folder of this machine, and each file that has changed is
stored whole every few seconds: a reader sees a consistent state, and another machine goes on where
this one is lost. Checkpoints and lease go to the URI directly.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

from itpn_ray.errors import RunError
from itpn_ray.runs.folder import CHECKPOINTS, EXPORT, REPEATS, folder_of
from itpn_ray.storage import join, open_store
from itpn_ray.storage.scratch import private_folder

_LOG = logging.getLogger(__name__)
INTERVAL_S = 5.0
"""Seconds between two looks for files that have changed; at most so much is lost with a machine."""
_ELSEWHERE = {CHECKPOINTS, "lease", REPEATS}
"""Folders, of a run and of the trials in it, that lie under the URI and are written there."""
_RAY = "ray"  # Ray's bookkeeping of an attempt, of no use to the next one
_DATABASE, _UNFINISHED = ".sqlite", "-journal"


def is_uri(out: str) -> bool:
    """Whether runs are kept under a URI rather than in a folder of this machine."""
    return "://" in out


def working_folder(out: str, run: str) -> Path:
    """The folder on this machine in which a run under a URI is worked on.

    Those of the trials in a sweep lie in the sweep's, as they do under the URI.
    """
    place = join(out, run).partition("://")[2]
    return private_folder("itpn_ray_runs") / place


def run_place(out: str, run: str) -> Path:
    """Where OUT/RUN is written on this machine: itself, or its working folder."""
    return working_folder(out, run) if is_uri(out) else folder_of(out, run)


def _no_rival() -> None:
    """Where there is no lease, nobody else is known."""


@contextmanager
def kept(out: str, run: str, confirm: Callable[[], None] = _no_rival) -> Iterator[None]:
    """Keep the working folder equal to OUT/RUN for the length of a ``with`` block.

    Nothing happens where OUT is a folder of this machine.

    Args:
        out: folder or URI of all runs.
        run: name of the run.
        confirm: raises RunError where another driver has taken the run over; called before
            anything is stored.

    Raises:
        RunError: at the end something could not be stored; says where it still lies.
        OSError: at the beginning the store does not answer.
    """
    if not is_uri(out):
        yield
        return
    with Mirror(working_folder(out, run), join(out, run), confirm):
        yield


def fetched(uri: str) -> Path:
    """A folder of this machine that holds what lies under a run's URI, until this process ends.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: the store does not answer.
    """
    # Of this process alone: in the working folder the run itself may go on.
    own = tempfile.mkdtemp(dir=private_folder("itpn_ray_fetched"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    folder = Path(own) / uri.rstrip("/").rpartition("/")[2]
    Mirror(folder, uri).pull()
    if not any(folder.iterdir()):
        raise FileNotFoundError(uri)
    return folder


class Mirror:
    """Copies a folder of this machine to a URI while it is written.

    Args:
        folder: on this machine.
        uri: where it is kept.
        confirm: see `kept`.
    """

    def __init__(self, folder: Path, uri: str, confirm: Callable[[], None] = _no_rival) -> None:
        self._folder = folder
        self._uri = uri
        self._confirm = confirm
        self._store = open_store(uri)
        self._stored: dict[str, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def __enter__(self) -> Mirror:
        self.pull()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.push()
        except OSError as failed:
            raise RunError(
                self._uri,
                None,
                f"does not take the last files of the run ({failed})",
                f"They lie in {self._folder}; repeat the command once the store answers",
            ) from failed

    def pull(self) -> None:
        """Make the folder what lies under the URI; whatever else was in it is removed.

        The weights of the trials in a sweep stay where they are: they may be many and large, and
        only the one that is applied is read again.
        """
        # What lies there may be of an attempt that another machine has gone on from since.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for key in self._store.list():
            if _elsewhere(key) or key.endswith(f"/{EXPORT}"):
                continue
            target = self._folder / key
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store.get_file(key, target)
            self._stored[key] = _stamp(target)

    def push(self) -> None:
        """Store the files that are new or have changed, and remove those that are gone.

        Raises:
            RunError: another driver has taken the run over.
            OSError: the store does not answer.
        """
        found = dict(self._files())
        changed = [key for key, stamp in found.items() if self._stored.get(key) != stamp]
        gone = self._stored.keys() - found.keys()
        if changed or gone:
            self._confirm()
        for key in changed:
            # Read before it is sent, so that a file that grows meanwhile is stored as it was.
            self._store.write_bytes(key, _content(self._folder / key))
            self._stored[key] = found[key]
        for key in gone:
            self._store.delete(key)
            del self._stored[key]

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in sorted(self._folder.rglob("*")):
            key = path.relative_to(self._folder).as_posix()
            # Temporary files begin with a dot.
            hidden = any(part.startswith(".") for part in key.split("/"))
            if path.is_file() and not hidden and not _elsewhere(key):
                yield key, _stamp(path)

    def _follow(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                self.push()
            except OSError as error:  # the next look or the end stores what this one could not
                _LOG.warning("%s does not answer (%s); it is tried again", self._uri, error)
            except RunError as lost:  # the driver finds out as well, and ends
                _LOG.warning("nothing more is stored: %s", lost)
                return


def _elsewhere(key: str) -> bool:
    """Whether a file is none that the mirror copies."""
    folders = set(key.split("/")[:-1])
    unfinished = key.endswith(f"{_DATABASE}{_UNFINISHED}")
    return bool(folders & {*_ELSEWHERE, _RAY}) or unfinished


def _content(path: Path) -> bytes:
    """The bytes of a file; of a database as they are between two transactions.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix != _DATABASE:
        return path.read_bytes()
    # Read through SQLite: a plain copy could catch the file in the middle of a write.
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return database.serialize()
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    found = path.stat()
    # Both: a coarse clock may give two writes one time.
    return found.st_mtime_ns, found.st_size
