"""Reads the tensors of a TorchScript archive, the format of OpenAI's CLIP files.

Such an archive is a zip of a pickle, the tensors' bytes and source code. The code is never read;
the pickle is read by an unpickler that knows tensors, plain containers and, for every class of the
archive's own, one inert stand-in. Anything else in it ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itpn_ray.errors import CheckpointError

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}

_MOST_PACKED = 64 << 20  # bytes; the pickle alone may be packed, and is far smaller


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the archived module, by name; nothing in it is executed.

    Raises:
        CheckpointError: damaged, or it holds something else than modules of tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            data = io.BytesIO(_member(archive, name))
            root = _Unpickler(data, archive, name.removesuffix("data.pkl")).load()
        return dict(_tensors(root, ""))
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        StopIteration,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        EOFError,
        RuntimeError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            str(path),
            None,
            f"cannot be read as a TorchScript archive of plain tensors ({error})",
            "Copy it again, or give the same weights as safetensors",
        ) from error


class _Module:
    """Stands for every class that the archive defines: keeps the attributes, does nothing."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Knows tensors, containers and stand-ins; refuses everything else."""

    def __init__(self, data: io.BytesIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(data)
        self._archive = archive
        self._folder = folder
        self._known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _tensor(*parts),
            ("collections", "OrderedDict"): OrderedDict,
            # Tags and typed lists: the values alone count.
            ("torch.jit._pickle", "restore_type_tag"): lambda value, kind: value,
        }
        for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"):
            self._known["torch.jit._pickle", name] = lambda values: values

    def find_class(self, module: str, name: str) -> Any:
        """The few callables that a module of tensors needs, none of which runs foreign code."""
        if (module, name) in self._known:
            return self._known[module, name]
        # The archive's own classes, by whatever name: only their attributes count.
        if module.split(".")[0] == "__torch__":
            return type("Module", (_Module,), {})
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a module of tensors")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers that ('storage', dtype, key, device, count) refers to, (count,)."""
        kind, dtype, key, _, count = pid
        # isalnum, so that a key cannot lead out of the archive's folder.
        if kind != "storage" or not str(key).isalnum():
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        # torch.frombuffer wants memory that may be written.
        data = bytearray(_member(self._archive, f"{self._folder}data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive; refuses one that claims to unpack to more than a module can need."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED and info.file_size > _MOST_PACKED:
        raise pickle.UnpicklingError(f"{name} is packed, which tensors never are")
    return archive.read(info)


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *unused: Any
) -> Tensor:
    """A copy of the part of a storage that a tensor shows; raises where it reaches beyond."""
    # Checked here, for as_strided names sizes but not whose they are.
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    # A copy, so that no two tensors share memory, as they may in the archive.
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _tensors(module: _Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
