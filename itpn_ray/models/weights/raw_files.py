"""The contents of weight files of any format, as tensors and plain data: nothing is ever executed.

Which format a file has shows in its first bytes, not by its name: `.pth`, `.pt`, `.bin` and
`.safetensors` are all in use for several of them.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from itpn_ray.errors import CheckpointError, told_by
from itpn_ray.models.weights.torchscript import is_torchscript, read_torchscript
from itpn_ray.models.zoo import is_zoo, zoo_file
from itpn_ray.runs.folder import EXPORT
from itpn_ray.storage import join, local_copy

_PICKLES = (b"PK", b"\x80")  # torch.save's zip archives, and its older bare pickles
_HEADER = 8  # bytes of a safetensors file that hold the length of the JSON behind them
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


HUB_WEIGHTS = "model.safetensors"
"""The weight file in a folder of the Hugging Face Hub."""


def in_folder(folder: Path) -> Path | None:
    """The weight file in a run's folder, or in one of the Hugging Face Hub; None: neither."""
    places = (folder / EXPORT, folder / HUB_WEIGHTS)
    return next((place for place in places if place.is_file()), None)


def locate(path: str | PathLike[str]) -> Path:
    """The weight file at `path`: itself, in a run's or the Hub's folder, or of ``zoo:NAME``.

    A remote file is copied to this machine first.

    Raises:
        CheckpointError: there is none, or it cannot be fetched.
    """
    if is_zoo(path):
        return zoo_file(str(path))
    if "://" in str(path):
        return _fetched(str(path))
    place = Path(path).expanduser()
    if place.is_dir():
        found = in_folder(place)
        if found is None:
            raise CheckpointError(
                str(path),
                None,
                f"is a folder without {EXPORT} or {HUB_WEIGHTS}",
                "Give a weight file, or the folder of a run that has finished",
            )
        return found
    if not place.is_file():
        raise CheckpointError(str(path), None, "does not exist", "Check the path")
    return place


def _fetched(uri: str) -> Path:
    """A copy on this machine of a remote weight file, or of the one that a remote run exported."""
    names = [uri] if Path(uri).suffix else [join(uri, name) for name in (EXPORT, HUB_WEIGHTS)]
    for name in names:
        try:
            return local_copy(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(
                uri, None, f"cannot be fetched: {error}", "Check the address and your rights"
            ) from error
    raise CheckpointError(
        uri, None, "does not exist", "Check the address; a run must have finished"
    )


def read_raw(path: str | PathLike[str]) -> tuple[dict[str, str], Any]:
    """Metadata (safetensors alone have any) and contents of a weight file.

    The contents are a mapping of tensors, or what `torch.save` was given: mappings and lists of
    tensors and plain data.

    Raises:
        CheckpointError: no such file, of no known format, damaged, or it would run code.
    """
    path = locate(path)
    if _is_safetensors(path):
        return read_safetensors(path)
    if is_torchscript(path):
        return {}, read_torchscript(path)
    return {}, read_pickle(path)


def read_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; of other formats an empty dict.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    path = locate(path)
    if not _is_safetensors(path):
        return {}
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        CheckpointError: it is damaged.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return dict(file.metadata() or {}), tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, its errors raised as CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path), None, f"not a whole safetensors file ({error})", "Copy or export it anew"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, or calls itself so and begins as nothing else.

    Raises:
        CheckpointError: it is of no known format, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER + 1)
    except OSError as error:
        raise CheckpointError(
            str(path), None, f"cannot be read ({error.strerror})", "Check its permissions"
        ) from error
    _refuse_program(path, head)
    # Asked first, because the length of a header may begin with the same bytes as a pickle.
    length = int.from_bytes(head[:_HEADER], "little")
    if head[_HEADER:] == b"{" and length < _LONGEST_HEADER:
        return True
    if head.startswith(_PICKLES):
        return False
    # A damaged one: the reader will say what is wrong with it.
    if path.suffix == ".safetensors":
        return True
    raise CheckpointError(
        str(path),
        None,
        f"is neither a safetensors nor a PyTorch file: it begins with {head!r}",
        "Download or copy it again",
    )


def _refuse_program(path: Path, head: bytes) -> None:
    """Refuse what was exported to be run, not read: it has no tensors by our names.

    Raises:
        CheckpointError: it is a graph of ONNX, or a program of torch.export.
    """
    # A message of ONNX begins with its version, a small number, then the name of its producer.
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        what = "an ONNX graph"
    elif path.suffix == ".pt2":
        what = "a program of torch.export"
    else:
        return
    card = path.with_name(f"{path.name}.md")
    told = f"Look at the card beside it, {card.name}, or name" if card.is_file() else "Name"
    raise CheckpointError(
        str(path),
        None,
        f"is {what}, which is for running and not for reading weights back",
        f"{told} the run or the weights that it was exported from",
    )


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, tensors and plain data only.

    Besides what PyTorch takes for safe, training scripts leave numbers of NumPy, paths and their
    command line's arguments in it; these are read too. Any other class or function is refused.

    Raises:
        CheckpointError: damaged, or it holds objects that would run code.
    """
    try:
        # From an open file, for torch goes by some files' names.
        with torch.serialization.safe_globals(_HARMLESS), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe pickles
        raise CheckpointError(
            str(path),
            None,
            f"cannot be read as plain tensors: {_why(error)}",
            "Copy it again, or convert it to safetensors with tools that you trust",
        ) from error


def _why(error: Exception) -> str:
    """What `torch.load` says in many lines, in one."""
    message = str(error)
    if foreign := re.search(r"(?:GLOBAL|function) (\S+)", message):
        return f"it wants to run {foreign[1]}"
    reason = re.search(r"WeightsUnpickler error: (.+)", message)
    return (reason[1] if reason else told_by(error)).rstrip(".")


def _harmless() -> list[Any]:
    """What pickles of training scripts may name besides tensors: data types that run no code."""
    core: Any = np._core.multiarray  # type: ignore[attr-defined]
    found: list[Any] = [argparse.Namespace, types.SimpleNamespace, np.dtype, np.ndarray]
    # A NumPy scalar names the class of its dtype.
    found += [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    for home in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since NumPy 2
        found += [(getattr(core, name), f"{home}.{name}") for name in ("scalar", "_reconstruct")]
    for home in ("pathlib", "pathlib._local"):  # of Python 3.13 the second
        found += [
            (pathlib.PurePosixPath, f"{home}.PosixPath"),
            (pathlib.PureWindowsPath, f"{home}.WindowsPath"),
        ]
    return found


_HARMLESS = _harmless()


def named_tensors(tree: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors that stand in a mapping itself, by name."""
    return {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
