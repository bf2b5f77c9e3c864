"""Checkpoints: whole or absent, written while training goes on, verified before they are used.

    checkpoints/
      step-000000100/
        model.safetensors, optimizer.safetensors, ...  one for each part that holds tensors
        state.json      plain values, and how the tensors fit into them
        manifest.json   sizes and SHA-256 of all others: written last, it makes the checkpoint
      best              the best one by the run's headline metric, if asked for; likewise
      last              the newest one: a symbolic link (local), or an object with its name (S3)

No pickle anywhere. See docs/explanation/checkpoints.md for what is guaranteed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.storage import open_store
from itpn_ray.storage.scratch import private_folder
from itpn_ray.training.checkpoint import manifest as manifests
from itpn_ray.training.checkpoint.manifest import CheckpointManifest, FileEntry
from itpn_ray.training.checkpoint.reader import (
    FOLDER,
    STATE,
    Checkpoint,
    is_missing,
    open_checkpoint,
    reading,
)
from itpn_ray.training.checkpoint.state_files import (
    State,
    flatten,
    snapshot,
    write_bytes,
    write_json,
    write_safetensors,
)

__all__ = ["LAST", "Checkpoint", "CheckpointStore", "SaveReport", "open_checkpoint"]

_LOG = logging.getLogger(__name__)
_PART = re.compile(r"^[A-Za-z][A-Za-z0-9_\-]*$")
LAST = "last"
BEST = "best"
STAGING = ".staging"
"""Folder beside local checkpoints, there while one is being written."""


@dataclass(frozen=True, kw_only=True)
class SaveReport:
    """What one save took: ``paused`` seconds of training, ``seconds`` until it was committed."""

    step: int
    bytes: int
    paused: float
    seconds: float


class _Part(NamedTuple):
    tensors: dict[str, Tensor]
    skeleton: Any


class CheckpointStore:
    """The checkpoints of one run, under a local folder or ``s3://``; one process writes them.

    Args:
        uri: where; the folder need not exist.
        keep_last: how many of the newest to keep; two or more, to have one to fall back on.
        keep_every: keep those whose step is a multiple of this for good; 0: none.

    Raises:
        ConfigError: a URI or number that cannot be used.
    """

    def __init__(self, uri: str, *, keep_last: int = 3, keep_every: int = 0) -> None:
        if keep_last < 1:
            raise ConfigError("keep_last", keep_last, "keeps nothing", "Choose 1 or more")
        if keep_every < 0:
            raise ConfigError("keep_every", keep_every, "is negative", "Choose 0 or more steps")
        self.uri = uri
        self.keep_last, self.keep_every = keep_last, keep_every
        self._store = open_store(uri)
        # One thread: checkpoints are committed in the order of their steps.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[SaveReport] | None = None
        self._reports: list[SaveReport] = []
        self._bad: set[str] = set()

    def save(
        self,
        step: int,
        state: State,
        *,
        epoch: float = 0.0,
        background: bool = True,
        verify: bool = True,
        best: bool = False,
    ) -> None:
        """Save a checkpoint of ``state``; returns once its tensors are copied to main memory.

        Args:
            step: optimizer steps done.
            state: the parts by name, each a tree of tensors and plain values as `flatten` takes,
                e.g. ``{"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "progress": {"samples": 1024}}``. Sharded tensors must be gathered first.
            epoch: passes over the data done, as a fraction.
            background: write while training goes on; a save still in flight is waited for.
                ``False`` returns when the checkpoint is committed.
            verify: read each file back before the manifest is written. ``False`` only where the
                machine is about to go: a resume verifies in any case.
            best: keep it, as ``best``, until another one is.

        Raises:
            CheckpointError: this save could not be made, or the previous one in the background.
        """
        # One copy of the state at a time; what went wrong in the last save is raised here.
        self.wait()
        started = time.perf_counter()
        parts = {}
        for name, tree in state.items():
            if not _PART.match(name) or f"{name}.json" == STATE:
                raise CheckpointError("state", name, "is no part's name", "Use letters and digits")
            # Copied before training goes on and changes them.
            tensors, skeleton = flatten(tree)
            parts[name] = _Part(snapshot(tensors), skeleton)
        paused = time.perf_counter() - started

        def run() -> SaveReport:
            size = self._write(step, epoch, parts, verify, best)
            seconds = time.perf_counter() - started
            pause = paused if background else seconds
            return SaveReport(step=step, bytes=size, paused=pause, seconds=seconds)

        if background:
            self._pending = self._pool.submit(run)
        else:
            self._reports.append(run())

    def wait(self) -> None:
        """Wait for the save in flight, if any.

        Raises:
            CheckpointError: it failed.
        """
        # Forgotten first, so that a failure is raised once.
        pending, self._pending = self._pending, None
        if pending is not None:
            self._reports.append(pending.result())

    def finished(self) -> list[SaveReport]:
        """Reports of the saves committed since the last call; cheap enough for every step.

        Raises:
            CheckpointError: the save in the background failed.
        """
        if self._pending is not None and self._pending.done():
            self.wait()
        reports, self._reports = self._reports, []
        return reports

    def steps(self) -> list[int]:
        """The steps with a committed checkpoint, ascending; their files are not verified."""
        with reading(self.uri):
            return [_step_of(name) for name in self._committed()]

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of one step; its files are verified as they are read.

        Raises:
            CheckpointError: there is none, or its manifest is bad.
        """
        return Checkpoint(self._store, _folder(step))

    def latest_good(self) -> Checkpoint | None:
        """The newest checkpoint whose every file is verified; ``None`` if none was ever saved.

        Bad ones are passed over with a warning and listed in its ``problems``; the next save
        removes them.

        Raises:
            CheckpointError: there are checkpoints, but none is good; or the store cannot be read.
        """
        problems: list[str] = []
        with reading(self.uri):
            names = set(self._committed())
            # A name that `last` knows was committed, so without a manifest it has lost it.
            pointed = self._store.pointed(LAST)
        names |= {pointed} if pointed and FOLDER.match(pointed) else set()
        for name in sorted(names, key=_step_of, reverse=True):
            try:
                checkpoint = Checkpoint(self._store, name)
                checkpoint.verify()
            except CheckpointError as error:
                if isinstance(error.__cause__, OSError) and not is_missing(error.__cause__):
                    raise  # the store fails: older checkpoints are no answer to that
                problems.append(f"{error.subject} {error.cause}")
                self._bad.add(name)
                _LOG.warning("passed over a bad checkpoint: %s", problems[-1])
                continue
            checkpoint.problems = tuple(problems)
            return checkpoint
        if problems:
            raise CheckpointError(
                self.uri,
                None,
                f"no good checkpoint is left: {'; '.join(problems)}",
                "Restore one from a backup, or choose another run name to start anew",
            )
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint that was saved as the best one, verified; ``None`` where none was.

        Raises:
            CheckpointError: it is damaged, or the store cannot be read.
        """
        with reading(self.uri):
            name = self._store.pointed(BEST)
        if name is None:
            return None
        checkpoint = Checkpoint(self._store, name)
        checkpoint.verify()
        return checkpoint

    def _write(
        self, step: int, epoch: float, parts: Mapping[str, _Part], verify: bool, best: bool
    ) -> int:
        name = _folder(step)
        try:
            with self._staging() as folder:
                files = _stage(folder, parts)
                manifest = CheckpointManifest(
                    step=step, epoch=epoch, time=time.time(), files=files, versions=_versions()
                )
                # Saved already, as after a resume: writing it again could only harm it.
                if not self._holds(name, files):
                    self._commit(folder, name, manifest, verify)
            # After the commit, so that the names never lead to a half.
            self._store.point(LAST, name)
            if best:
                self._store.point(BEST, name)
            self._retain(name)
        except OSError as error:
            raise CheckpointError(
                f"{self.uri}/{name}", None, f"was not saved: {error}", self._mend(error)
            ) from error
        return manifest.size

    def _mend(self, error: OSError) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return "Free some space or lower keep_last, and repeat the command to go on"
        return "Fix the storage, and repeat the command to go on from the last good one"

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """An empty private folder, on the store's own filesystem if that is local."""
        root = self._store.local_path(LAST)
        if root is not None:
            # On one filesystem a file is moved by renaming it.
            folder = root.parent / STAGING
        else:
            # One fixed name a store, so that a killed process leaves no more than one behind.
            mark = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
            folder = private_folder("itpn_ray_staging") / mark
        if folder.exists():
            shutil.rmtree(folder)
        # Nobody else may read weights in a temporary folder.
        folder.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _holds(self, name: str, files: Mapping[str, FileEntry]) -> bool:
        """Whether this very content is committed and good: a step repeated after a resume."""
        try:
            checkpoint = Checkpoint(self._store, name)
            if checkpoint.manifest.files != files:
                return False
            checkpoint.verify()
        except CheckpointError:
            return False
        return True

    def _commit(self, folder: Path, name: str, manifest: CheckpointManifest, verify: bool) -> None:
        # A bad checkpoint of this step, or one of other content, gives way.
        self._remove(name)
        try:
            for file, entry in manifest.files.items():
                key = f"{name}/{file}"
                self._store.put_file(folder / file, key, move=True)
                if verify and self._store.digest(key) != (entry.bytes, entry.sha256):
                    raise OSError(f"{key} read back differs from what was written")
            # Staged like the others: the folder then never holds a temporary file.
            write_bytes(folder / manifests.NAME, manifest.encode())
            self._store.put_file(folder / manifests.NAME, f"{name}/{manifests.NAME}", move=True)
        # BaseException: what is half written goes on Ctrl-C too.
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._remove(name)
            raise

    def _committed(self) -> list[str]:
        """Names of the folders with a manifest, ascending by step."""
        keys = self._store.list("step-")
        names = {key.partition("/")[0] for key in keys if key.endswith(f"/{manifests.NAME}")}
        return sorted(filter(FOLDER.match, names), key=_step_of)

    def _retain(self, newest: str) -> None:
        """Remove what is not to be kept, and what earlier saves left unfinished."""
        # Bad ones do not count as kept, or good older ones would go in their favour.
        committed = [name for name in self._committed() if name not in self._bad or name == newest]
        keep = {newest, *committed[-self.keep_last :], self._store.pointed(BEST)}
        if self.keep_every:
            keep |= {name for name in committed if _step_of(name) % self.keep_every == 0}
        folders = {key.partition("/")[0] for key in self._store.list("step-")}
        for name in filter(FOLDER.match, folders - keep):
            self._remove(name)
        self._bad.clear()

    def _remove(self, name: str) -> None:
        # The manifest first: what is half removed is no checkpoint any more.
        self._store.delete(f"{name}/{manifests.NAME}")
        for key in self._store.list(f"{name}/"):
            self._store.delete(key)


def _stage(folder: Path, parts: Mapping[str, _Part]) -> dict[str, FileEntry]:
    """Write all files but the manifest into ``folder``."""
    files = {}
    plain = {}
    for name, part in parts.items():
        file = f"{name}.safetensors" if part.tensors else None
        if file is not None:
            size, sha256 = write_safetensors(folder / file, part.tensors)
            files[file] = FileEntry(bytes=size, sha256=sha256)
        plain[name] = {"file": file, "skeleton": part.skeleton}
    size, sha256 = write_json(folder / STATE, {"parts": plain})
    files[STATE] = FileEntry(bytes=size, sha256=sha256)
    return files


def _folder(step: int) -> str:
    return f"step-{step:09d}"


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "itpn_ray": version("itpn-ray"),
    }
