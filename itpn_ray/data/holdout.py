"""Sets images aside for validation where a source has none; copies of an image stay together."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.sources.base import Listing, Source
from itpn_ray.errors import DataError


def hold_out(source: Source, listing: Listing, share: float, seed: int) -> Listing:
    """The listing with a ``val`` split: set aside from train, class by class, where there is none.

    Files with equal bytes go to the same side. To find them, files of equal size are read once
    more. A class of one image stays in train; where all are, any images are set aside. Of
    detection, images with objects and those without are the classes here.

    Raises:
        DataError: there is one image only, or copies of one.
    """
    if "val" in listing.splits or "train" not in listing.splits:
        return listing
    train = listing.splits["train"]
    first = first_copies(source, train)
    labels = train.column("label").to_numpy()
    if "train" in listing.annotations:
        # Images with objects and those without are shared out alike.
        labels = listing.annotations["train"].shown(train)
    held = _draw(labels, first, share, seed)
    if not held.any():
        path = train.column("path")[0].as_py()
        cause = "is the only image" if len(first) == 1 else "has the bytes of all others"
        raise DataError("prepare.source", path, cause, "Give at least one other for validation too")
    splits = {**listing.splits, "train": train.filter(~held), "val": train.filter(held)}
    what = "of each class of" if listing.kind == "classification" else "of the images of"
    # One image a class leaves no class in proportion, see `_draw`.
    if listing.kind == "classification" and len(np.unique(labels[first])) == len(np.unique(first)):
        what = "of the images, one a class, of"
    origin = f"{share:.3g} {what} {listing.origins['train']}, held out by seed {seed}"
    annotations = dict(listing.annotations)
    if "train" in annotations:
        # The same annotations serve both: each row is joined with its own objects.
        annotations["val"] = annotations["train"]
    return replace(
        listing,
        splits={name: splits[name] for name in ("train", "val", "test") if name in splits},
        origins={**listing.origins, "val": origin},
        annotations=annotations,
    )


def first_copies(source: Source, rows: pa.Table) -> NDArray[np.int64]:
    """The first row with the same bytes, for each row of a listing: (rows,) int64.

    A file that is empty or cannot be read counts as different from all others.

    Memory: 8 bytes an image, for the beginning of its SHA-256.
    """
    first = np.arange(len(rows))
    _, inverse, counts = np.unique(
        rows.column("size").to_numpy(), return_inverse=True, return_counts=True
    )
    # Only files of equal size can have equal bytes: the rest are never read.
    alike = np.flatnonzero(counts[inverse] > 1)
    digests = np.zeros(len(alike), dtype=np.uint64)
    readable = np.zeros(len(alike), dtype=bool)
    for number, data in enumerate(source.read(rows.take(pa.array(alike)))):
        if isinstance(data, bytes) and data:
            readable[number] = True
            digests[number] = np.frombuffer(hashlib.sha256(data).digest(), np.uint64, count=1)[0]
    alike = alike[readable]
    # `return_index` gives the first row of each digest, and `inverse` leads every copy back to it.
    _, at, inverse = np.unique(digests[readable], return_index=True, return_inverse=True)
    first[alike] = alike[at[inverse]]
    return first


def _draw(
    labels: NDArray[Any], first: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Which rows are held out: (rows,) bool; a row goes with its first copy."""
    # The second number keeps these draws apart from
    # the order of the rows, which is seeded [seed, 1].
    rng = np.random.default_rng([seed, 0])
    own = np.flatnonzero(first == np.arange(len(first)))
    groups = [own[labels[own] == label] for label in np.unique(labels[own])]
    # No class has two images to share out, so the classes cannot be kept in proportion.
    if max(map(len, groups)) < 2:
        groups = [own]
    held = np.zeros(len(labels), dtype=bool)
    for group in groups:
        # At least one on each side of the split, whatever the share rounds to.
        count = min(max(1, round(share * len(group))), len(group) - 1)
        held[rng.permutation(group)[:count]] = True
    # Copies were not drawn themselves; each follows its first.
    return held[first]
