"""Puts the images of a prepared split through a network: on Ray Data actors, or in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.decode import decode_rgb
from itpn_ray.data.loading.image_folder import Answer, FolderImage, Predict
from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.errors import DataError, told_by
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.machines import require_seen, ship
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.ray_runtime.tasks import Work, here_or_on_actors
from itpn_ray.storage import is_s3, join
from itpn_ray.storage.uri import local_path

_LOADER = LoaderConfig(transport="threads")
_BATCHES_A_TASK = 8  # batches that an actor is asked for together
_ELSEWHERE = "Copy it to s3://BUCKET/PREFIX"
Rows = tuple[int, int]
"""The first row and the one after the last."""


@dataclass(frozen=True, kw_only=True)
class SplitJob:
    """Everything that is the same for all images of a split.

    Attributes:
        uri: prepared data.
        split: which split.
        batch: images a forward pass.
        threads: images decoded at once.
        weights: file of the network; a local one is sent to workers on other machines.
        make_predictor: makes the network of a file, once a worker.
    """

    uri: str
    split: str
    batch: int
    threads: int
    weights: str
    make_predictor: Callable[[str], Predict]


class SplitWorker:
    """A network and the threads that decode for it.

    Args:
        job: what to do.
    """

    def __init__(self, job: SplitJob) -> None:
        self._job = job
        self._dataset = open_rows(job.uri, job.split, _LOADER)
        self._predict = job.make_predictor(job.weights)
        self._pool = ThreadPoolExecutor(job.threads, "decode")

    def answers(self, rows: Rows) -> Iterator[list[Answer]]:
        """The answers for rows of the split, a batch at a time.

        Raises:
            DataError: a shard is damaged, or an image cannot be decoded.
        """
        first, last = rows
        for start in range(first, last, self._job.batch):
            batch = range(start, min(last, start + self._job.batch))
            yield list(self._predict(list(self._pool.map(self._image, batch))))

    def _image(self, row: int) -> FolderImage:
        index, inside = self._dataset.locate(row)
        shard = self._dataset.shard(index)
        path = str(shard.fields(inside, ["path"])["path"])
        # Numbered from 1, as images of folders are.
        return FolderImage(
            number=row + 1, path=path, pixels=self._decode(shard.image(inside), path)
        )

    def _decode(self, data: NDArray[np.uint8], path: str) -> Tensor:
        try:
            return decode_rgb(data)
        except RuntimeError as error:
            reason = told_by(error)
            raise DataError(path, None, reason, "Prepare the data again") from error


def answer_split(
    job: SplitJob, count: int, *, workers: int, gpus: bool, ray: RayConfig | None = None
) -> Generator[Answer, None, None]:
    """The answer for each image of a split, in the order of its rows.

    Args:
        job: what to do.
        count: images of the split.
        workers: Ray Data actors, each with a network of its own; 0: this process.
        gpus: reserve a GPU for each actor.
        ray: the Ray to run on, unless this process is connected to one.

    Raises:
        DataError: a shard is damaged, or an image cannot be decoded.
    """
    # As in `image_folder`: a worker's share in tasks of at most eight batches, rounded up.
    size = job.batch * min(_BATCHES_A_TASK, -(-count // (job.batch * max(1, workers))))
    tasks = [(start, min(count, start + size)) for start in range(0, count, size)]
    with start_ray(ray) if workers else nullcontext():
        if workers and not is_s3(job.uri):
            require_seen("images", job.uri, local_path(join(job.uri, MANIFEST)), _ELSEWHERE)
        sent = ship(job.weights) if workers else None

        def make_work() -> Work:
            return SplitWorker(replace(job, weights=sent.here()) if sent else job).answers

        answered = here_or_on_actors(
            make_work, tasks, workers=workers, cpus=job.threads, gpus=int(gpus)
        )
        with closing(answered):
            for answers in answered:
                yield from answers
