"""Counts what preparation has done, and stops it where too much of the source cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.plan import ShardPlan
from itpn_ray.data.prepare.shard_job import ShardRecord
from itpn_ray.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PrepareProgress:
    """How far a preparation is: images and shards done and in all, images in quarantine."""

    images: int
    total_images: int
    shards: int
    total_shards: int
    quarantined: int


ProgressCallback = Callable[[PrepareProgress], None]


class Tally:
    """Gathers records, tells the progress, and stops when too much cannot be used.

    Args:
        config: how much may be.
        plans: of all shards.
        progress: called with each shard.

    Raises:
        DataError: too many objects cannot be used, whatever their images are like.
    """

    def __init__(
        self,
        config: PrepareConfig,
        plans: Sequence[ShardPlan],
        progress: ProgressCallback | None,
    ) -> None:
        self.records: dict[tuple[str, int], ShardRecord] = {}
        self._config = config
        self._shards = len(plans)
        # A record has a row a tile where images are cut into tiles.
        self._images_of = {(plan.split, plan.index): plan.images for plan in plans}
        self._images = sum(self._images_of.values())
        self._progress = progress
        self._done = 0
        self._broken = 0
        problems = [problem for plan in plans for problem in plan.problems]
        self._lost = len(problems)
        self._objects = sum(plan.objects for plan in plans) + self._lost
        # Annotations alone may already be past the limit: told before an image is read.
        self._check(self._lost, self._objects, "objects", problems)

    def add(self, split: str, index: int, record: ShardRecord) -> None:
        """Count a finished shard.

        Raises:
            DataError: strict and something cannot be used, or more than ``max_broken`` of the
                images, or of the objects, cannot.
        """
        self.records[split, index] = record
        self._broken += len(record.quarantine)
        self._lost += len(record.left_out)
        self._done += self._images_of[split, index]
        self._check(self._broken, self._images, "images", record.quarantine)
        self._check(self._lost, self._objects, "objects", record.left_out)
        if self._progress is not None:
            self._progress(
                PrepareProgress(
                    images=self._done,
                    total_images=self._images,
                    shards=len(self.records),
                    total_shards=self._shards,
                    quarantined=self._broken,
                )
            )

    def _check(self, lost: int, total: int, what: str, listed: Sequence[tuple[str, str]]) -> None:
        # A fraction of all that there is, not of what is done so far: early faults do not stop it.
        limit = 0 if self._config.strict else self._config.max_broken * total
        if lost <= limit or not listed:
            return
        path, reason = listed[0]
        strict = self._config.strict
        allowed = "--strict allows none" if strict else f"{limit:.0f} are allowed"
        hint = "leave out --strict" if strict else "raise --max-broken"
        raise DataError(
            "prepare.source",
            self._config.source,
            f"{lost} of {total} {what} cannot be used and {allowed}; one is {path}: {reason}",
            f"Fix or remove them, or {hint}",
        )
