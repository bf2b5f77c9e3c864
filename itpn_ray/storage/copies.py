"""Copies of remote files on this machine, made once for all processes that ask."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from itpn_ray.storage.scratch import private_folder
from itpn_ray.storage.uri import filesystem, is_s3, local_path, open_store


def local_copy(uri: str) -> Path:
    """The file at ``uri``: itself where it is local, else a copy in this machine's scratch folder.

    The copy goes by address, size and time of change, so that a replaced file is fetched again.

    Raises:
        FileNotFoundError: there is none.
        OSError: the store fails in spite of retries.
    """
    if not is_s3(uri):
        return Path(local_path(uri))
    fs, path = filesystem(uri)
    info = fs.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError(uri)
    # An object that has changed has another size or time, and gets a copy of its own.
    identity = f"{uri}\0{info.size}\0{info.mtime_ns}"
    folder = private_folder("itpn_ray_files")
    target = folder / hashlib.sha256(identity.encode()).hexdigest()[:16] / path.rpartition("/")[2]
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Each process fetches for itself and replaces a whole file by an equal one.
    part = target.with_name(f".{target.name}.{os.getpid()}")
    place, _, name = uri.rpartition("/")
    try:
        open_store(place).get_file(name, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
