"""The sizes of images, from their headers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from PIL import Image
from pyarrow.fs import FileSystem

from itpn_ray.data.prepare.reencode import FORMATS
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.pairs import in_parallel

_HEAD = 256 << 10  # bytes in which headers usually lie, a camera's metadata included
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


def upright_sizes(fs: FileSystem, paths: Iterable[str]) -> Iterator[Frame | None]:
    """Width and height of each image as it is shown; ``None`` where it cannot be read."""
    Image.init()
    yield from in_parallel(lambda path: _upright_size(fs, path), paths)


def _upright_size(fs: FileSystem, path: str) -> Frame | None:
    try:
        with fs.open_input_file(path) as stream:
            head = stream.read(_HEAD)
            # Once more with the whole file where there is more: large metadata push the size back.
            return _size(head) or (_size(head + stream.read()) if len(head) == _HEAD else None)
    except OSError:
        return None


def _size(data: bytes) -> Frame | None:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            # Asking for EXIF decodes images that have none in their header.
            may_have_exif = image.format in ("JPEG", "MPO", "TIFF") or "exif" in image.info
            turned = may_have_exif and image.getexif().get(_ORIENTATION) in _TURNED
    # Readers raise nearly anything on broken files, which preparation tells when it decodes them.
    except Exception:
        return None
    return (height, width) if turned else (width, height)
