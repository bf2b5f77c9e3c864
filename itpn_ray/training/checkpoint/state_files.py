"""Training state as plain files: trees of tensors and plain values <-> safetensors and JSON.

No pickle: a tree is split into its tensors (one safetensors file) and a JSON skeleton that says
where they go. Tuples, integer keys and non-finite numbers, of which JSON knows nothing, are kept,
so that a state dict comes back equal, bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itpn_ray.errors import CheckpointError

# What a checkpoint holds, by the name of the part: {"model": {...}, "progress": {...}}.
State = Mapping[str, Any]

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 16 << 20  # bytes hashed and written at a time


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree into its tensors, by path, and a JSON-able skeleton.

    Args:
        tree: mappings, lists, tuples, tensors, strings, numbers, booleans and ``None``, such as
            ``optimizer.state_dict()``.

    Raises:
        CheckpointError: a value of another type (it names the path), or two tensors of one path.
    """
    tensors: dict[str, Tensor] = {}
    if isinstance(tree, Mapping) and tree and _is_flat(tree):
        return dict(tree), {"$tensors": True}  # a skeleton would only repeat the names
    return tensors, _encode(tree, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """The inverse of `flatten`."""
    if skeleton == {"$tensors": True}:
        return dict(tensors)
    return _decode(skeleton, tensors)


def _is_flat(tree: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tree.items())


def _encode(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        # A key with a slash can spell the path of another tensor.
        if path in tensors:
            raise CheckpointError(path, None, "names two tensors of the state", "Rename one")
        tensors[path] = node
        return {"$tensor": path}
    if node is None or isinstance(node, bool | int | str):
        return node
    if isinstance(node, float):
        # JSON has no infinity and no NaN.
        return node if math.isfinite(node) else {"$float": repr(node)}
    below = f"{path}/" if path else ""
    if isinstance(node, Mapping):
        # Keys that begin with $ would be taken for the skeleton's own marks.
        if all(isinstance(key, str) and not key.startswith("$") for key in node):
            return {key: _encode(value, below + key, tensors) for key, value in node.items()}
        # JSON has string keys only, and an optimiser's state goes by number.
        pairs = [[_key(key, path), _encode(v, f"{below}{key}", tensors)] for key, v in node.items()]
        return {"$items": pairs}
    if isinstance(node, list | tuple):
        values = [_encode(value, f"{below}{i}", tensors) for i, value in enumerate(node)]
        return {"$tuple": values} if isinstance(node, tuple) else values
    raise CheckpointError(
        path or "state", type(node).__name__, "cannot be stored", "Use tensors and plain values"
    )


def _key(key: Any, path: str) -> int | str:
    if isinstance(key, int | str) and not isinstance(key, bool):
        return key
    raise CheckpointError(path or "state", key, "is no usable key", "Use strings or integers")


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(value, tensors) for value in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"$tensor": path}:
            return tensors[path]
        case {"$float": text}:
            return float(text)
        case {"$tuple": values}:
            return tuple(_decode(value, tensors) for value in values)
        case {"$items": pairs}:
            return {key: _decode(value, tensors) for key, value in pairs}
    return {key: _decode(value, tensors) for key, value in node.items()}


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory, contiguous, that later training steps do not touch.

    Copies from a GPU run side by side into pinned memory; on return all are done.
    """
    copies = {}
    for name, tensor in tensors.items():
        source = tensor.detach()
        copy = torch.empty(
            source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda
        )
        # Not waited for one by one: the copies queue up on the device.
        copies[name] = copy.copy_(source, non_blocking=True)
    if any(tensor.is_cuda for tensor in tensors.values()):
        # The copies are still on their way until here.
        torch.cuda.synchronize()
    return copies


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write contiguous CPU tensors in the safetensors format, durably.

    Hashed while written, so that the digest is that of the tensors in memory, not of whatever the
    disk made of them.

    Returns:
        Size in bytes and SHA-256 (hex).

    Raises:
        CheckpointError: a dtype the format has no name for.
        OSError: for instance a full disk.
    """
    # Widest elements first: every tensor then lies aligned in the file.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(name, str(tensor.dtype), "cannot be stored", "Convert it first")
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format pads its header with blanks, so that the tensors begin aligned.
    text += b" " * (-len(text) % 8)
    # The file begins with the length of its header: 8 bytes, little-endian.
    return _write_hashed(path, _chunks(struct.pack("<Q", len(text)) + text, tensors, order))


def write_json(path: Path, value: Any) -> tuple[int, str]:
    """Write ``value`` as JSON, durably; returns size and SHA-256 as `write_safetensors`."""
    return write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


def write_bytes(path: Path, data: bytes) -> tuple[int, str]:
    """Write ``data`` durably; returns size and SHA-256 as `write_safetensors`."""
    return _write_hashed(path, iter([memoryview(data)]))


def _chunks(head: bytes, tensors: Mapping[str, Tensor], order: list[str]) -> Iterator[memoryview]:
    yield memoryview(head)
    for name in order:
        data = _bytes_of(tensors[name])
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]


def _bytes_of(tensor: Tensor) -> memoryview:
    # As bytes, since NumPy has no bfloat16.
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _write_hashed(path: Path, chunks: Iterator[memoryview]) -> tuple[int, str]:
    digest = hashlib.sha256()
    # x: a file that is there already is never overwritten.
    with path.open("xb") as out:
        for chunk in chunks:
            digest.update(chunk)
            out.write(chunk)
        # On the disk before a manifest may name it.
        out.flush()
        os.fsync(out.fileno())
        return out.tell(), digest.hexdigest()


def state_digest(state: State) -> str:
    """SHA-256 (hex) over every name, dtype, shape and byte of a state.

    The same for the same values whatever their order, device or memory layout; two runs whose
    digests of model, EMA and optimizer agree ended bit-equal.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensors, skeleton = flatten(state[name])
        digest.update(json.dumps([name, skeleton], sort_keys=True).encode())
        for path in sorted(tensors):
            tensor = tensors[path].detach().cpu().contiguous()
            about = [path, _DTYPES.get(tensor.dtype, str(tensor.dtype)), list(tensor.shape)]
            digest.update(json.dumps(about).encode())
            digest.update(_bytes_of(tensor))
    return digest.hexdigest()
