"""The manifest of a checkpoint: written last, it is what makes the other files a checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from itpn_ray.errors import CheckpointError

FORMAT = 1
NAME = "manifest.json"
_FILE_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_\-]*\.(safetensors|json)$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """What a checkpoint consists of.

    Args:
        step: optimizer steps done.
        epoch: passes over the data done, as a fraction.
        time: when it was written, in seconds since 1970.
        files: every other file of the checkpoint.
        versions: of Python, PyTorch and this package, for the reader's information.
    """

    step: int
    epoch: float
    time: float
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(entry.bytes for entry in self.files.values())

    def encode(self) -> bytes:
        """The manifest as it is stored: JSON with a digest of itself."""
        content = {"format": FORMAT, **asdict(self)}
        return _canonical(content | {"digest": _digest(content)})

    @classmethod
    def decode(cls, data: bytes, uri: str) -> CheckpointManifest:
        """Read and verify.

        Raises:
            CheckpointError: cut, changed by as little as one byte, or of a newer format.
        """
        try:
            content = json.loads(data)
            digest = content.pop("digest")
            whole = digest == _digest(content) and data == _canonical(content | {"digest": digest})
            if whole and content["format"] == FORMAT:
                return cls._from(content)
        except (ValueError, KeyError, AttributeError, TypeError):
            whole = False
        if whole:
            raise CheckpointError(
                uri, content["format"], "is an unknown format", "Upgrade itpn_ray"
            )
        raise CheckpointError(uri, None, "is cut or changed", "Use another checkpoint")

    @classmethod
    def _from(cls, content: dict[str, Any]) -> CheckpointManifest:
        files = {}
        for name, entry in content["files"].items():
            # Names become paths: none may leave the folder.
            if not _FILE_NAME.match(name) or not _SHA256.match(entry["sha256"]):
                raise ValueError(name)
            files[name] = FileEntry(bytes=int(entry["bytes"]), sha256=entry["sha256"])
        return cls(
            step=int(content["step"]),
            epoch=float(content["epoch"]),
            time=float(content["time"]),
            files=files,
            versions={str(key): str(value) for key, value in content["versions"].items()},
        )


def _canonical(content: dict[str, Any]) -> bytes:
    # One spelling only, so that a byte flipped anywhere shows, be it in the white space.
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()
