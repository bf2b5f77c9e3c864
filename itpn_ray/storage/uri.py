"""From a URI to something that reads and writes there."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING

from itpn_ray.errors import ConfigError
from itpn_ray.storage.base import ObjectStore
from itpn_ray.storage.local import LocalStore

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")


def is_s3(uri: str) -> bool:
    """Whether ``uri`` names a place in S3.

    Raises:
        ConfigError: a scheme other than ``s3://`` and ``file://``.
    """
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else "file"
    if scheme not in ("file", "s3"):
        raise ConfigError(
            "URI scheme", scheme, "is not known here", "Use a local path or s3://bucket/prefix"
        )
    return scheme == "s3"


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended, for local paths and ``s3://`` alike."""
    return "/".join([uri.rstrip("/"), *parts])


def local_path(uri: str) -> str:
    """The absolute path of a local URI (``file://`` or a plain path, ``~`` expanded)."""
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """A pyarrow filesystem and the path in it: ``(LocalFileSystem, "/data")``, or
    ``(S3FileSystem, "bucket/prefix")``.

    Good for reading data; where writes must survive a failing server use `open_store`.

    Raises:
        ConfigError: an unknown scheme, an S3 URI without bucket or with credentials in it, or an
            unencrypted endpoint that is not on this machine.
    """
    if is_s3(uri):
        from itpn_ray.storage import s3

        return s3.filesystem(uri)
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem(), local_path(uri)


def open_store(uri: str) -> ObjectStore:
    """The object store at ``uri``; nothing is created or asked of a server yet.

    Raises:
        ConfigError: as `filesystem`.
    """
    if is_s3(uri):
        from itpn_ray.storage import s3

        return s3.S3Store(uri)
    return LocalStore(local_path(uri))


def check_writable(uri: str) -> None:
    """Write, read back and remove a small object: seconds, before anything expensive starts.

    Raises:
        ConfigError: nothing can be written at ``uri``, or as `filesystem`.
    """
    if is_s3(uri):
        from itpn_ray.storage import s3

        # A person waits for this answer.
        store: ObjectStore = s3.S3Store(uri, patient=False)
    else:
        store = LocalStore(local_path(uri))
    key, content = f"write-check-{secrets.token_hex(6)}", b"itpn_ray"
    try:
        store.write_bytes(key, content)
        found = store.read_bytes(key)
        store.delete(key)
    except OSError as error:
        raise ConfigError(
            "output", uri, f"cannot be written: {error}", "Choose a place you may write to"
        ) from error
    if found != content:
        raise ConfigError("output", uri, "does not return what was written", "Choose another place")
