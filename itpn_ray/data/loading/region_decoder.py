"""NVIDIA's nvImageCodec on the CPU: decodes a part of a JPEG for a part of the price.

It skips the rows and columns outside, and gives the very pixels of a whole decoding. Where it is
not installed (not on Linux), images are decoded whole, more slowly and to the same pixels.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_EXTENSIONS = "NVIMGCODEC_EXTENSIONS_PATH"
_state = threading.local()
_loading = threading.Lock()


# Looked up once: the search walks the import path.
@cache
def installed() -> bool:
    """Whether parts of images can be decoded alone."""
    try:
        return importlib.util.find_spec("nvidia.nvimgcodec") is not None
    except ModuleNotFoundError:  # no package of NVIDIA at all
        return False


def decode_part(
    image: npt.NDArray[np.uint8], box: tuple[int, int, int, int]
) -> tuple[tuple[int, int], npt.NDArray[np.uint8] | None]:
    """Decode a box (top, left, height, width) of a JPEG, (bytes,) uint8.

    Returns:
        Height and width of the whole image; and the box, (height, width, 3) RGB, or None where
        its data are broken.

    Raises:
        RuntimeError: the bytes are no image.
    """
    codec, decoder, params = _decoder()
    top, left, height, width = box
    stream = codec.CodeStream(image)
    part = stream.get_sub_code_stream(region=codec.Region(top, left, top + height, left + width))
    decoded = decoder.decode(part, params=params)
    return (stream.height, stream.width), None if decoded is None else np.asarray(decoded)


def _decoder() -> tuple[Any, Any, Any]:
    """The library, this thread's decoder, and what it is asked for."""
    if not hasattr(_state, "made"):
        codec = _load()
        decoder = codec.Decoder(
            backends=[codec.Backend(codec.BackendKind.CPU_ONLY)],
            device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
            # The pool's threads decode in parallel already; a decoder needs no threads of its own.
            max_num_cpu_threads=1,
        )
        # Stored images are upright; what their EXIF says must not turn them again.
        params = codec.DecodeParams(apply_exif_orientation=False)
        _state.made = codec, decoder, params
    return _state.made


def _load() -> Any:
    """Import the library with its JPEG decoder alone: the others print that they miss a GPU."""
    spec = importlib.util.find_spec("nvidia.nvimgcodec")
    assert spec is not None
    assert spec.origin is not None
    extensions = Path(spec.origin).parent / "extensions"
    # The lock: environment variables and the import belong to the whole process.
    with _loading, tempfile.TemporaryDirectory() as folder:
        for library in extensions.glob("libjpeg_turbo_ext*"):
            (Path(folder) / library.name).symlink_to(library)
        before = os.environ.get(_EXTENSIONS)
        # A path that the user has set wins.
        os.environ[_EXTENSIONS] = before or folder
        try:
            from nvidia import nvimgcodec  # type: ignore[import-untyped]
        finally:
            if before is None:
                del os.environ[_EXTENSIONS]
    return nvimgcodec
