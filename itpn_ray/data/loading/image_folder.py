"""Puts an image, or all of a folder, through a network: on Ray Data actors, or in this process.

Images are read and decoded as preparation does, so that whatever a folder holds either gives
pixels or is told; nothing an image holds can end the run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from posixpath import relpath
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from itpn_ray.data.loading.decode import decode_rgb
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.plan import from_bytes, to_bytes
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
from itpn_ray.data.sources.base import IMAGE_SUFFIXES, LISTING_SCHEMA, Rows, Say, silent
from itpn_ray.data.sources.leftovers import LEFTOVER, in_words
from itpn_ray.data.sources.reading import read_ranges
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.machines import require_seen, ship
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.ray_runtime.tasks import Work, here_or_on_actors
from itpn_ray.storage import filesystem, is_s3

_RULES = ImageRules(max_side=None, quality=95, max_pixels=PrepareConfig.max_pixels)
_SCHEMA = pa.schema([*LISTING_SCHEMA, ("number", pa.int64())])
_BATCHES_A_TASK = 8  # batches that travel to an actor together


@dataclass(frozen=True, kw_only=True)
class FolderImage:
    """A decoded image.

    Attributes:
        number: from 1, in the order of the paths.
        path: relative to the folder.
        pixels: (3, H, W) uint8 RGB, upright.
    """

    number: int
    path: str
    pixels: Tensor


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a network says of an image.

    Attributes:
        entries: plain data for the results.
        drawn: JPEG bytes of the image with what was found; empty where none is drawn.
        mask: PNG bytes of the class of each pixel; empty where there is none.
        lines: file name -> lines that are written behind those of earlier images.
    """

    entries: list[dict[str, Any]]
    drawn: bytes = b""
    mask: bytes = b""
    lines: Mapping[str, str] = field(default_factory=dict)


Predict = Callable[[Sequence[FolderImage]], Sequence[Answer]]
"""Answers for a batch of images of any sizes."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a file.

    Attributes:
        number: from 1, in the order of the paths.
        path: relative to the folder.
        size: (width, height) upright, pixels; (0, 0) where it is no image.
        problem: why it cannot be read; empty where it can.
        answer: what the network says of it.
    """

    number: int
    path: str
    size: tuple[int, int]
    problem: str
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """Everything that is the same for all images.

    Attributes:
        uri: the folder, or the one image.
        batch: images a forward pass.
        threads: images decoded at once.
        weights: file of the network; a local one is sent to workers on other machines.
        make_predictor: makes the network of a file, once a worker.
    """

    uri: str
    batch: int
    threads: int
    weights: str
    make_predictor: Callable[[str], Predict]


def list_images(uri: str, say: Say = silent) -> tuple[pa.Table, list[tuple[str, str]]]:
    """All files below a folder that may be images, by their names; or the one file that is named.

    Args:
        uri: the folder, or a file.
        say: called with how much is left out that programs leave behind.

    Returns:
        Those that can be opened, sorted by path and numbered; path and problem of the others, such
        as dead links and names that are not UTF-8.

    Raises:
        DataError: there is none that can be opened.
    """
    fs, root = filesystem(uri)
    rows = Rows(_SCHEMA)
    named = fs.get_file_info(root)
    if named.is_file:
        # Whatever its name: who names a file means it.
        rows.add(named.base_name, root, size=named.size, number=1)
        return rows.table(), []
    found = files_below(fs, root)
    leftovers = [entry.path for entry in found if entry.problem == LEFTOVER]
    if leftovers:
        say(in_words(leftovers))
    barred: list[tuple[str, str]] = []
    for entry in found:
        path = relpath(entry.path, root)
        if entry.problem == LEFTOVER or not entry.name.lower().endswith(IMAGE_SUFFIXES):
            continue
        if entry.problem:
            barred.append((path, entry.problem))
        else:
            rows.add(path, entry.path, size=entry.size or 0, number=len(rows) + 1)
    if not len(rows):
        raise DataError("folder", uri, "holds no images", "Give an image or a folder with some")
    return rows.table(), barred


class FolderWorker:
    """A network and the threads that decode for it.

    Args:
        job: what to do.
    """

    def __init__(self, job: FolderJob) -> None:
        self._job = job
        self._predict = job.make_predictor(job.weights)
        self._pool = ThreadPoolExecutor(job.threads, "decode")

    def answer(self, rows: pa.Table) -> list[Outcome]:
        """The outcomes of a batch of rows of `list_images`, in their order."""
        # Read, decoded and answered a batch at a time: one batch is in memory.
        files = list(read_ranges(self._job.uri, rows))
        found = rows.select(["number", "path"]).to_pylist()
        decoded = list(self._pool.map(decode_image, files))
        images = [
            FolderImage(number=row["number"], path=row["path"], pixels=pixels)
            for row, pixels in zip(found, decoded, strict=True)
            if isinstance(pixels, Tensor)
        ]
        # The predictor sees only what could be decoded;
        # answers are handed back to their rows in order.
        answers = iter(self._predict(images) if images else ())
        return [
            _outcome(row, next(answers), pixels)
            if isinstance(pixels, Tensor)
            else Outcome(**row, size=(0, 0), problem=pixels, answer=Answer(entries=[]))
            for row, pixels in zip(found, decoded, strict=True)
        ]

    def answers(self, rows: pa.Table) -> Iterator[list[Outcome]]:
        """The outcomes of any number of rows, a batch at a time."""
        for start in range(0, len(rows), self._job.batch):
            yield self.answer(rows.slice(start, self._job.batch))


def decode_image(data: bytes | OSError) -> Tensor | str:
    """The pixels of a file, (3, H, W) uint8, or why there are none."""
    if isinstance(data, OSError):
        return str(data.strerror)
    try:
        return decode_rgb(np.frombuffer(reencode(data, _RULES).data, dtype=np.uint8))
    except (RejectedError, RuntimeError) as error:
        return str(error)


def _outcome(row: dict[str, Any], answer: Answer, pixels: Tensor) -> Outcome:
    size = (int(pixels.shape[2]), int(pixels.shape[1]))
    return Outcome(**row, size=size, problem="", answer=answer)


def answer_folder(
    job: FolderJob,
    rows: pa.Table,
    *,
    workers: int,
    gpus: bool,
    ray: RayConfig | None = None,
) -> Generator[Outcome, None, None]:
    """What becomes of each image, in the order of the rows.

    Args:
        job: what to do.
        rows: of `list_images`.
        workers: Ray Data actors, each with a network of its own; 0: this process.
        gpus: reserve a GPU for each actor.
        ray: the Ray to run on, unless this process is connected to one.
    """
    # Fewer where there are few images, so that each worker has some.
    size = job.batch * min(_BATCHES_A_TASK, -(-len(rows) // (job.batch * max(1, workers))))
    tasks = [to_bytes(rows.slice(start, size)) for start in range(0, len(rows), size)]
    with start_ray(ray) if workers else nullcontext():
        if workers and not is_s3(job.uri):
            # One file stands for all: a worker that sees it sees the folder.
            first = rows.column("file")[0].as_py()
            require_seen("folder", job.uri, first, "Copy it to s3://BUCKET/PREFIX")
        sent = ship(job.weights) if workers else None

        def make_work() -> Work:
            worker = FolderWorker(replace(job, weights=sent.here()) if sent else job)
            return lambda task: worker.answers(from_bytes(task))

        answers = here_or_on_actors(
            make_work, tasks, workers=workers, cpus=job.threads, gpus=int(gpus)
        )
        with closing(answers):
            for outcomes in answers:
                yield from outcomes
