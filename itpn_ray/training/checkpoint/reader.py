"""A checkpoint as it lies in a store: opened, verified, loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from itpn_ray.errors import CheckpointError
from itpn_ray.storage import ObjectStore, open_store
from itpn_ray.training.checkpoint import manifest as manifests
from itpn_ray.training.checkpoint.manifest import CheckpointManifest
from itpn_ray.training.checkpoint.state_files import unflatten

# Written with nine digits, so that listings sort by step.
FOLDER = re.compile(r"^step-(\d{9,})$")
STATE = "state.json"


class Checkpoint:
    """One checkpoint, whose files are verified before they are read.

    Attributes:
        step: optimizer steps done.
        epoch: passes over the data done, as a fraction.
        uri: the checkpoint's folder.
        manifest: sizes, digests and versions.
        problems: what was wrong with newer checkpoints that `CheckpointStore.latest_good` passed
            over, one line a file.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        """Read the manifest.

        Raises:
            CheckpointError: it is missing, cut or changed, or the store cannot be read.
        """
        self._store, self._name = store, name
        self._verified: dict[str, Path] = {}
        self._fetched: tempfile.TemporaryDirectory[str] | None = None
        self.uri = f"{store.uri}/{name}"
        self.problems: tuple[str, ...] = ()
        with reading(f"{self.uri}/{manifests.NAME}"):
            data = store.read_bytes(f"{name}/{manifests.NAME}")
        self.manifest = CheckpointManifest.decode(data, f"{self.uri}/{manifests.NAME}")
        self.step, self.epoch = self.manifest.step, self.manifest.epoch

    def verify(self) -> None:
        """Compare every file's size and SHA-256 with the manifest's.

        Raises:
            CheckpointError: the first file that is missing, cut or changed.
        """
        for name in self.manifest.files:
            self._path(name)

    def load(self, *parts: str) -> dict[str, Any]:
        """The saved state, or those ``parts`` of it: equal, bit by bit, to what was given to save.

        Tensors come in main memory. Only the files needed are fetched and verified.

        Raises:
            CheckpointError: a bad file, or a part that this checkpoint does not have.
        """
        saved = self._parts()
        for part in parts:
            if part not in saved:
                raise CheckpointError(
                    self.uri, part, "is not in this checkpoint", f"It has {', '.join(saved)}"
                )
        return {part: self._part(saved[part]) for part in parts or saved}

    def _parts(self) -> dict[str, Any]:
        try:
            return json.loads(self._path(STATE).read_text())["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise _bad(f"{self.uri}/{STATE}", "is not a state's plain values") from error

    def _part(self, entry: Mapping[str, Any]) -> Any:
        tensors: dict[str, Tensor] = {}
        if entry["file"] is not None:
            try:
                loaded = load_file(self._path(entry["file"]))
            except SafetensorError as error:
                uri = f"{self.uri}/{entry['file']}"
                raise _bad(uri, f"is no safetensors file: {error}") from error
            # Cloned, for safetensors maps the file, and a map would keep a deleted file's space.
            tensors = {name: loaded.pop(name).clone() for name in list(loaded)}
        return unflatten(tensors, entry["skeleton"])

    def _path(self, name: str) -> Path:
        if name not in self._verified:
            self._verified[name] = self._verify(name)
        return self._verified[name]

    def _verify(self, name: str) -> Path:
        entry = self.manifest.files[name]
        uri = f"{self.uri}/{name}"
        with reading(uri):
            path = self._local(name)
            size = path.stat().st_size
            # A longer file is found out by its digest.
            if size < entry.bytes:
                raise _bad(uri, f"is cut: {size} of {entry.bytes} bytes")
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != entry.sha256:
            raise _bad(uri, "is changed: its SHA-256 is not the manifest's")
        return path

    def _local(self, name: str) -> Path:
        key = f"{self._name}/{name}"
        path = self._store.local_path(key)
        if path is not None:
            return path
        if self._fetched is None:
            self._fetched = tempfile.TemporaryDirectory(prefix="itpn-ray-checkpoint-")
        path = Path(self._fetched.name) / name
        self._store.get_file(key, path)
        return path


def open_checkpoint(uri: str) -> Checkpoint:
    """The checkpoint in one folder, such as ``out/run/checkpoints/last`` or ``s3://.../step-...``.

    Raises:
        CheckpointError: there is none, or its manifest is bad.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = open_store(parent or ".")
    with reading(uri):
        pointed = store.pointed(name)
    # A name leads only to what checkpoints are called, never elsewhere in the store.
    if pointed is not None and not FOLDER.match(pointed):
        raise CheckpointError(uri, pointed, "is no checkpoint's name", "Name its folder itself")
    return Checkpoint(store, pointed or name)


def is_missing(error: BaseException | None) -> bool:
    """Whether an error says that a file is not there, rather than that the store fails."""
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def _bad(uri: str, cause: str) -> CheckpointError:
    return CheckpointError(uri, None, cause, "Use another checkpoint")


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn a failing read into a CheckpointError that names the file."""
    try:
        yield
    except OSError as error:
        cause = "is missing" if is_missing(error) else f"cannot be read: {error}"
        raise _bad(uri, cause) from error
