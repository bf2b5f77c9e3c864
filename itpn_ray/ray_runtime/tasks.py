"""Runs tasks in Ray Data: tasks out, answers and errors back, and an end that is an end."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from itpn_ray.errors import ItpnError
from itpn_ray.ray_runtime.compat import rows_of
from itpn_ray.ray_runtime.places import missing_places

if TYPE_CHECKING:
    from ray.data import Dataset

Work = Callable[[Any], Iterable[Any]]
"""Takes a task and yields any number of answers."""


class _Worker:
    """Tasks and answers as the pickles that travel between Ray's processes.

    An error is an answer too: Ray Data wraps what a worker raises, and the wrapping does not keep
    the error of ours inside it.
    """

    def __init__(self, make_work: Callable[[], Work]) -> None:
        self._failed: Exception | None = None
        try:
            self._work = make_work()
        except (ItpnError, OSError) as error:
            self._failed = error

    def __call__(self, block: pa.Table) -> Iterator[dict[str, list[object]]]:
        try:
            if self._failed is not None:
                raise self._failed
            for task in block.column("task"):
                for answer in self._work(pickle.loads(task.as_py())):
                    yield {"answer": [pickle.dumps(answer)], "failed": [False]}
        except (ItpnError, OSError) as error:
            yield {"answer": [pickle.dumps(error)], "failed": [True]}


def run_on_ray(
    make_work: Callable[[], Work],
    tasks: Sequence[Any],
    *,
    workers: int | None,
    actors: bool = False,
    ordered: bool = False,
    cpus: float = 1,
    gpus: float = 0,
) -> Generator[Any, None, None]:
    """What the tasks answer, as it comes; needs a connection to Ray.

    Close it before Ray is shut down: then no thread of this process goes on, and tasks that still
    run are asked to stop.

    Args:
        make_work: makes what does the work.
        tasks: at least one; anything that can be pickled, and small.
        workers: tasks done at once; None: as many as the cluster has CPUs for.
        actors: make the work once for each of the workers, which must be so many, and not for
            each task.
        ordered: answers come in the order of the tasks.
        cpus: reserved for each worker.
        gpus: likewise.

    Raises:
        ConfigError: the cluster has not, and cannot get, what the workers need.
        ItpnError, OSError: what the work raised.
        ray.exceptions.RayError: it failed otherwise.
    """
    import ray

    need = {"CPU": cpus, "GPU": gpus}
    waiting = missing_places(need, min(workers or 1, len(tasks)) if actors else 1)
    if waiting:
        logging.getLogger(__name__).warning(waiting)

    def work_once(block: pa.Table) -> Iterator[dict[str, list[object]]]:
        return _Worker(make_work)(block)

    dataset = dataset_of([{"task": pickle.dumps(task)} for task in tasks], ordered=ordered)
    dataset.context.target_max_block_size = 1  # each answer travels at once
    how: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": cpus}
    how |= {"num_gpus": gpus} if gpus else {}
    if actors:
        assert workers is not None
        how["compute"] = ray.data.ActorPoolStrategy(size=min(workers, len(tasks)))
        answered = dataset.map_batches(_Worker, fn_constructor_args=(make_work,), **how)
    else:
        most = None if workers is None else min(workers, len(tasks))
        how["compute"] = ray.data.TaskPoolStrategy(size=most)
        answered = dataset.map_batches(work_once, **how)
    with closing(rows_of(answered)) as rows:
        for row in rows:
            answer = pickle.loads(row["answer"])
            if row["failed"]:
                raise answer
            yield answer


def here_or_on_actors(
    make_work: Callable[[], Work],
    tasks: Sequence[Any],
    *,
    workers: int,
    cpus: float,
    gpus: float,
) -> Generator[Any, None, None]:
    """What the tasks answer, in their order; needs a connection to Ray unless there are no workers.

    Args:
        make_work: makes what does the work, once a worker.
        tasks: at least one, see `run_on_ray`.
        workers: actors; 0: this process, without Ray.
        cpus: reserved for each actor.
        gpus: likewise.

    Raises:
        ConfigError: the cluster has not, and cannot get, what the workers need.
        ItpnError, OSError: what the work raised.
    """
    if workers == 0:
        work = make_work()
        for task in tasks:
            yield from work(task)
        return
    yield from run_on_ray(
        make_work, tasks, workers=workers, actors=True, ordered=True, cpus=cpus, gpus=gpus
    )


def dataset_of(items: Sequence[dict[str, Any]], *, ordered: bool) -> Dataset:
    """A Ray Dataset of at least one item, each a block of its own, that prints nothing."""
    import ray

    # from_items makes its blocks in this process. from_arrow sends a task for each, which waits
    # for a free CPU, and for ever where the training workers hold them all.
    dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
    dataset.context.execution_options.preserve_order = ordered
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset
