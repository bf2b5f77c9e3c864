"""Folders among this machine's temporary files, in which nobody else can put anything."""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

from itpn_ray.errors import ConfigError


def private_folder(name: str) -> Path:
    """A folder of this user's, made where it is not there; its name is the same in each process.

    What lies in it can be trusted, though the folder of all temporary files is everybody's.

    Raises:
        ConfigError: something of that name belongs to somebody else, or is no folder.
    """
    path = Path(tempfile.gettempdir()) / f"{name}_{_user()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        _check_own(path)
    return path


def _user() -> str:
    # A container may run under a number that no account belongs to: KeyError up to Python 3.12.
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _check_own(path: Path) -> None:
    # Of the entry itself: a link could lead into a folder of ours, and be changed at any time.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            "TMPDIR",
            str(path),
            "is no folder of this user's, and what others put there would be trusted",
            "Remove it, or set TMPDIR to a folder of your own",
        )
    # Earlier versions left it as the umask says.
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        path.chmod(0o700)
