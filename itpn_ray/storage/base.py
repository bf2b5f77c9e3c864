"""The few operations on files that checkpoints and leases need, wherever the files lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from itpn_ray.errors import DataError


def check_key(key: str) -> str:
    """Return ``key``, or refuse one that could lead outside the store or name a hidden file.

    Raises:
        DataError: an empty, absolute or back-slashed key, or one with a part that starts with a
            dot (``..`` among them).
    """
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(not part or part.startswith(".") for part in parts):
        raise DataError(
            "object key", key, "is not a plain relative path", "Use names without '..' or '\\'"
        )
    return key


class ObjectStore(ABC):
    """Objects under one URI, named by keys such as ``step-000000100/model.safetensors``.

    A write is whole or absent: a reader never sees a part of an object. Every method raises
    ``FileNotFoundError`` for a missing object, another ``OSError`` where the store fails in spite
    of retries, and `DataError` for a key that leads outside the store.
    """

    uri: str

    @abstractmethod
    def put_file(self, source: Path, key: str, *, move: bool = False) -> None:
        """Store the local file ``source`` under ``key``.

        With ``move`` the source is gone afterwards, which spares a local store the copy.
        """

    @abstractmethod
    def get_file(self, key: str, target: Path) -> None:
        """Copy an object into the local file ``target``, whose folder exists."""

    @abstractmethod
    def read_bytes(self, key: str) -> bytes:
        """The object's content."""

    @abstractmethod
    def write_bytes(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``, replacing what was there."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store ``data`` unless ``key`` exists; of several callers exactly one gets ``True``.

        On S3 a retried request may have been carried out before its answer was lost: ``False``
        then hides a success, so a caller that needs certainty reads the object back.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    @abstractmethod
    def age(self, key: str) -> float:
        """Seconds since an object was written, both times by the store's own clock.

        So it is true on a machine whose clock is wrong.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """All keys that start with ``prefix``, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""

    @abstractmethod
    def digest(self, key: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 (hex) of an object, as read back from the store."""

    @abstractmethod
    def point(self, name: str, target: str) -> None:
        """Make ``name`` refer to the folder ``target``, in one step.

        A symbolic link in a local store, so that the name can be used as a path; a small object
        with the target's name elsewhere.
        """

    @abstractmethod
    def pointed(self, name: str) -> str | None:
        """The target of a name set by `point`; ``None`` if it was never set."""

    def local_path(self, key: str) -> Path | None:
        """Where the object lies on this machine, if it does; ``None`` for a remote store."""
        check_key(key)
        return None
