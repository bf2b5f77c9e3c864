"""Images with objects: what every reader of annotations gives, whatever files it reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.sources.annotated.ids import Id
from itpn_ray.data.sources.annotated.objects import ObjectSet
from itpn_ray.data.sources.base import LISTING_SCHEMA, Listing, Source
from itpn_ray.errors import DataError

IMAGE_SCHEMA = pa.schema(
    [
        *LISTING_SCHEMA,
        ("image_id", pa.int64()),
        ("frame_width", pa.int32()),  # as annotated; null where the file does not say
        ("frame_height", pa.int32()),
    ]
)
"""Columns of the listing of images with objects."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedSplit:
    """One split.

    Attributes:
        name: of its annotation file or folder, relative to the source.
        categories: names by id, in the order of the labels, without stray blanks.
        rows: the listing of its images.
        objects: its objects.
        faults: images that are left out, and categories that contradict each other.
        skipped: (path, reason) of files that are not read.
        notes: what was guessed, in sentences for people.
    """

    name: str
    categories: dict[Id, str]
    rows: pa.Table
    objects: ObjectSet
    faults: tuple[Fault, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class AnnotatedSource(Source):
    """A data set of images with objects.

    Attributes:
        kind: of the listing, one of `itpn_ray.data.schema.WITH_OBJECTS`.
    """

    kind: ClassVar[str] = "detection"

    @abstractmethod
    def files(self) -> Iterator[tuple[str, AnnotatedSplit]]:
        """Each split, read but for its objects; train first. All have the same categories.

        Raises:
            DataError: there is none, or one is not understood.
        """

    def listing(self) -> Listing:
        """See `Source.listing`; images in the order of the annotations."""
        files = dict(self.files())
        categories = next(iter(files.values())).categories
        # The doctor only lists it; here one of the two classes would be a guess.
        for file in files.values():
            for fault in file.faults:
                if fault.kind == kinds.CATEGORY_TWICE:
                    raise DataError(fault.place, None, fault.reason, "Make ids unique")
        # COCO's tools take numbers only: where an id is a text, none are kept.
        numbers = [number for number in categories if isinstance(number, int)]
        return Listing(
            kind=self.kind,
            classes=tuple(categories.values()),
            class_ids=tuple(numbers) if len(numbers) == len(categories) else (),
            splits={split: file.rows for split, file in files.items()},
            origins={split: file.name for split, file in files.items()},
            skipped=tuple(
                skip
                for file in files.values()
                for skip in (*((f.place, f.reason) for f in file.faults), *file.skipped)
            ),
            notes=tuple(note for file in files.values() for note in file.notes),
            annotations={split: file.objects for split, file in files.items()},
        )


def frames_of(rows: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """(n, 2) width and height of listed images as annotated, 0 where the file does not say."""
    sides = (rows.column(f"frame_{side}").fill_null(0) for side in ("width", "height"))
    return np.stack([side.to_numpy() for side in sides], axis=1).astype(np.int32)
