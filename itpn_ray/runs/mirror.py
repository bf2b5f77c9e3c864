"""A run's folder under a URI: worked in on this machine, and kept equal to what lies there.

All of a run but its checkpoints and its lease is small, and written by one driver that holds the
lease. So it is written in a working folder of this machine, and each file that has changed is
stored whole every few seconds: a reader sees a consistent state, and another machine goes on where
this one is lost. Checkpoints and lease go to the URI directly.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from itpn_ray.errors import RunError
from itpn_ray.runs.folder import CHECKPOINTS, folder_of
from itpn_ray.storage import join, open_store

_LOG = logging.getLogger(__name__)
INTERVAL_S = 5.0
"""Seconds between two looks for files that have changed; at most so much is lost with a machine."""
_ELSEWHERE = (f"{CHECKPOINTS}/", "lease/")
_RAY = "ray/"  # Ray Train's bookkeeping of an attempt, of no use to the next one


def is_uri(out: str) -> bool:
    """Whether runs are kept under a URI rather than in a folder of this machine."""
    return "://" in out


def working_folder(out: str, run: str) -> Path:
    """The folder on this machine in which a run under a URI is worked on."""
    digest = hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"itpn_ray_runs_{getpass.getuser()}" / digest / run


def run_place(out: str, run: str) -> Path:
    """Where OUT/RUN is written on this machine: itself, or its working folder."""
    return working_folder(out, run) if is_uri(out) else folder_of(out, run)


@contextmanager
def kept(out: str, run: str) -> Iterator[None]:
    """Keep the working folder equal to OUT/RUN for the length of a ``with`` block.

    Nothing happens where OUT is a folder of this machine.

    Raises:
        RunError: at the end something could not be stored; says where it still lies.
        OSError: at the beginning the store does not answer.
    """
    if not is_uri(out):
        yield
        return
    with Mirror(working_folder(out, run), join(out, run)):
        yield


def fetched(uri: str) -> Path:
    """A folder of this machine that holds what lies under a run's URI.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: the store does not answer.
    """
    out, _, run = uri.rstrip("/").rpartition("/")
    folder = working_folder(out, run)
    Mirror(folder, uri).pull()
    if not any(folder.iterdir()):
        raise FileNotFoundError(uri)
    return folder


class Mirror:
    """Copies a folder of this machine to a URI while it is written.

    Args:
        folder: on this machine.
        uri: where it is kept.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._uri = uri
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
        """Make the folder what lies under the URI; whatever else was in it is removed."""
        # What lies there may be of an attempt that another machine has gone on from since.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for key in self._store.list():
            if key.startswith(_ELSEWHERE):
                continue
            target = self._folder / key
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store.get_file(key, target)
            self._stored[key] = _stamp(target)

    def push(self) -> None:
        """Store the files that are new or have changed, and remove those that are gone."""
        found = dict(self._files())
        for key, stamp in found.items():
            if self._stored.get(key) == stamp:
                continue
            # Read before it is sent, so that a file that grows meanwhile is stored as it was.
            self._store.write_bytes(key, (self._folder / key).read_bytes())
            self._stored[key] = stamp
        for key in self._stored.keys() - found.keys():
            self._store.delete(key)
            del self._stored[key]

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in sorted(self._folder.rglob("*")):
            key = path.relative_to(self._folder).as_posix()
            hidden = any(part.startswith(".") for part in key.split("/"))
            if path.is_file() and not hidden and not key.startswith((*_ELSEWHERE, _RAY)):
                yield key, _stamp(path)

    def _follow(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                self.push()
            except OSError as error:  # the next look or the end stores what this one could not
                _LOG.warning("%s does not answer (%s); it is tried again", self._uri, error)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    found = path.stat()
    # Both: a coarse clock may give two writes one time.
    return found.st_mtime_ns, found.st_size
