"""What a shard, a host batch and a device batch hold: names, types, shapes, units.

**Shard**: an Arrow IPC file of encoded images, one row an image (`shard_schema`). Coordinates
are pixels of the stored image, (0, 0) its upper left corner, x to the right, y down; boxes are
(x1, y1, x2, y2). They keep the precision of the annotations (float64) and may overshoot the image
by what the annotations do; transforms clip.

**Host batch** of classification and pre-training, made by the loader:

| name | type | shape | meaning |
|---|---|---|---|
| image | uint8 | (B, 3, S, S) | RGB, 0..255 |
| label | int64 | (B,) | class, -1 where there is none |
| labels | uint8 | (B, K) | of images with several labels: 1 for each class that is shown |
| sample_id | int64 | (B,) | row number in the split, in shard order |

That of detection is described in `itpn_ray.data.loading.view_batches`.

**Device batch**: the first after `itpn_ray.data.transforms.on_device`: image float32 (B, 3, S, S),
normalised by the ImageNet mean and standard deviation, mixed and erased; label as int64 (B,) or
mixed float32 (B, K).
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

KINDS = ("classification", "multilabel", "unlabelled", "detection", "segmentation", "rotated")

WITH_OBJECTS = ("detection", "rotated")
"""Kinds whose images have objects; a split of them needs one at least."""

_IMAGE = [
    pa.field("image", pa.binary(), nullable=False),  # JPEG, 8 bits, RGB or grey, upright
    pa.field("label", pa.int32(), nullable=False),  # class, -1 where there is none
    pa.field("width", pa.int32(), nullable=False),  # pixels
    pa.field("height", pa.int32(), nullable=False),
    pa.field("path", pa.string(), nullable=False),  # where it was found, relative to the source
]

OBJECT_COLUMNS = {
    "object_ids": pa.int64(),  # the annotation file's own numbers
    "classes": pa.int32(),  # index into the manifest's classes
    "boxes": pa.list_(pa.float64(), 4),  # x1, y1, x2, y2
    "areas": pa.float64(),  # square pixels, as annotated
    "crowds": pa.bool_(),  # a group of things, not to be counted
    # Outlines x, y, x, y, ... of the thing's parts; no part where the mask is run lengths.
    "polygons": pa.list_(pa.list_(pa.float64())),
    # Run lengths of 0, 1, 0, ... down the columns of the stored image (COCO); or empty.
    "runs": pa.list_(pa.int32()),
}
"""Columns of detection: each a list with one entry an object, of this type."""

_OBJECTS = [
    pa.field("image_id", pa.int64(), nullable=False),  # the annotation file's own number
    *(pa.field(name, pa.list_(of), nullable=False) for name, of in OBJECT_COLUMNS.items()),
]

_ROTATED = [
    # A tile of an image. The one outline of an object is its turned box, four corners in the
    # annotation's order, which may reach beyond the tile; `image_id` is that of the whole image;
    # `crowds` marks objects that are difficult, or of which the tile shows too little.
    *_OBJECTS,
    pa.field("difficult", pa.list_(pa.bool_()), nullable=False),  # of each object, as annotated
    pa.field("origin", pa.list_(pa.int32(), 2), nullable=False),  # x, y of the tile in the image
]

_LABELS = pa.field("labels", pa.list_(pa.int32()), nullable=False)
"""Classes that an image shows, ascending; it may show none of them."""

_SEGMENTATION = [
    # PNG, 8 or 16 bits grey, of the image's size: 0 where ignored, n + 1 for class n.
    pa.field("mask", pa.binary(), nullable=False),
]

_EXTRA = {
    "classification": [],
    "multilabel": [_LABELS],
    "unlabelled": [],
    "detection": _OBJECTS,
    "rotated": _ROTATED,
    "segmentation": _SEGMENTATION,
}


def shard_schema(kind: str) -> pa.Schema:
    """Columns of a shard of one of the ``KINDS``.

    Raises:
        KeyError: the kind is unknown.
    """
    return pa.schema(_IMAGE + _EXTRA[kind])


INDEX_SCHEMA = pa.schema([(name, pa.int32()) for name in ("label", "width", "height")])
"""Columns of ``<split>/index.arrow``: what is known of every row without opening a shard."""


def index_schema(kind: str) -> pa.Schema:
    """Columns of the index of one of the ``KINDS``: those of all, and the labels of several."""
    return pa.schema([*INDEX_SCHEMA, *([_LABELS] if kind == "multilabel" else [])])
