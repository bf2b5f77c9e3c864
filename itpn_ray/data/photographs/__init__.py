"""Photographs that come with the package: 700 of five kinds of clothes, shorter side 144 pixels.

From https://github.com/alexeygrigorev/clothing-dataset-small (CC0 1.0), as
`benchmarks/embed_photographs.py` chose and shrank them: 100 of each class to train on, and 40 of
its validation and test images.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
from pathlib import Path

from itpn_ray.errors import ConfigError

ARCHIVE = Path(__file__).with_name("clothing5.tar")


def unpack_photographs(out: str | Path) -> Path:
    """Write the photographs as train/ and val/ with a folder a class; at once where they are there.

    Args:
        out: folder to write.

    Raises:
        ConfigError: it cannot be written.
    """
    target = Path(out)
    # The folder gets its name last and whole: if it is there, it is complete.
    if target.is_dir():
        return target
    # A draft of its own, should two processes unpack at once.
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with tarfile.open(ARCHIVE) as tar:
            # filter="data" refuses entries that would lead out of the folder.
            tar.extractall(draft, filter="data")
        os.replace(draft, target)
    except OSError as error:
        raise ConfigError("out", str(out), f"cannot be written: {error}", "Give another") from error
    # After the rename there is nothing left to remove.
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
