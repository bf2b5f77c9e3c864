"""An object store in a local (or mounted) folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from itpn_ray.storage.base import ObjectStore, check_key


class LocalStore(ObjectStore):
    """Objects as files under ``root``; temporary files have names that begin with a dot."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self.uri = str(self.root)

    def put_file(self, source: Path, key: str, *, move: bool = False) -> None:
        """See `ObjectStore.put_file`; a move within one filesystem is a rename."""
        target = self._target(key)
        # Between filesystems a rename is not possible, and a copy not atomic.
        if move and source.stat().st_dev == target.parent.stat().st_dev:
            os.replace(source, target)
            _sync_folder(target.parent)
            return
        with source.open("rb") as stream:
            self._write(target, lambda out: shutil.copyfileobj(stream, out, 1 << 22))
        if move:
            source.unlink()

    def get_file(self, key: str, target: Path) -> None:
        """See `ObjectStore.get_file`."""
        shutil.copyfile(self._path(key), target)

    def read_bytes(self, key: str) -> bytes:
        """See `ObjectStore.read_bytes`."""
        return self._path(key).read_bytes()

    def write_bytes(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write_bytes`."""
        self._write(self._target(key), lambda out: out.write(data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; a hard link makes the whole file appear at once."""
        target = self._target(key)
        temporary = _temporary(target)
        try:
            _write_synced(temporary, lambda out: out.write(data))
            # A link fails where the name exists; a rename would replace it.
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return True

    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        return self._path(key).is_file()

    def age(self, key: str) -> float:
        """See `ObjectStore.age`: beside a file that is written now, for the disk may be mounted."""
        path = self._path(key)
        written = path.stat().st_mtime
        # By the filesystem's own clock, which may be another machine's.
        mark = _temporary(path)
        mark.touch()
        try:
            return max(0.0, mark.stat().st_mtime - written)
        finally:
            mark.unlink()

    def list(self, prefix: str = "") -> list[str]:
        """See `ObjectStore.list`; links to folders are not followed."""
        keys = []
        for folder, subfolders, names in os.walk(self.root):
            # In place, so that os.walk does not enter them.
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            relative = Path(folder).relative_to(self.root)
            keys += [(relative / name).as_posix() for name in names if not name.startswith(".")]
        return sorted(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`; folders left empty go too."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or already gone
            for parent in path.parents:
                if parent == self.root:
                    break
                parent.rmdir()

    def digest(self, key: str) -> tuple[int, str]:
        """See `ObjectStore.digest`."""
        with self._path(key).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
            return stream.tell(), found

    def point(self, name: str, target: str) -> None:
        """See `ObjectStore.point`: a relative symbolic link, replaced atomically."""
        check_key(target)
        path = self._target(name)
        # Always the same name, so that killed processes leave one behind at most.
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, path)
        _sync_folder(path.parent)

    def pointed(self, name: str) -> str | None:
        """See `ObjectStore.pointed`."""
        path = self._path(name)
        return os.readlink(path) if path.is_symlink() else None

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`."""
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _target(self, key: str) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, target: Path, fill: Callable[[BinaryIO], object]) -> None:
        temporary = _temporary(target)
        try:
            _write_synced(temporary, fill)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)


def _temporary(target: Path) -> Path:
    # Without the target's name, which may be as long as a name can be.
    return target.with_name(f".{secrets.token_hex(12)}")


def _write_synced(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    # "x": a name that is taken already would be another process's file.
    with path.open("xb") as out:
        fill(out)
        out.flush()
        os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: without it a power cut may bring the old name back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
