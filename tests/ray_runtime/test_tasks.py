from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from itpn_ray.errors import DataError
from itpn_ray.ray_runtime.tasks import Work, run_on_ray

pytestmark = pytest.mark.usefixtures("ray_cluster")


def counting() -> Work:
    made = time.monotonic_ns()

    def count(task: int) -> Iterator[tuple[int, int, int]]:
        for number in range(task):
            yield task, number, made

    return count


@pytest.mark.parametrize("actors", [False, True])
def test_every_answer_of_every_task_arrives(actors: bool) -> None:
    tasks = [3, 1, 0, 2]
    answers = list(run_on_ray(counting, tasks, workers=2, actors=actors, ordered=True))
    assert [answer[:2] for answer in answers] == [(3, 0), (3, 1), (3, 2), (1, 0), (2, 0), (2, 1)]
    assert len({made for _, _, made in answers}) <= (2 if actors else 3)


def test_an_answer_does_not_wait_for_the_end_of_its_task(tmp_path) -> None:
    def two() -> Work:
        def work(path: str) -> Iterator[str]:
            yield "first"
            end = time.monotonic() + 300
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.01)
            yield "second" if os.path.exists(path) else "never told of the first"

        return work

    told = tmp_path / "told"
    with closing(run_on_ray(two, [str(told)], workers=1)) as answers:
        assert next(answers) == "first"
        told.touch()
        assert list(answers) == ["second"]


@pytest.mark.parametrize("actors", [False, True])
@pytest.mark.parametrize("where", ["making", "working"])
def test_an_error_of_ours_comes_as_it_is(actors: bool, where: str) -> None:
    def fail() -> None:
        raise DataError("image", 3, "is broken", "Fix it")

    def failing() -> Work:
        if where == "making":
            fail()

        def work(task: int) -> Iterator[int]:
            yield task
            fail()

        return work

    with pytest.raises(DataError, match="is broken") as caught:
        list(run_on_ray(failing, [1], workers=1, actors=actors))
    assert caught.value.value == 3


def slow() -> Work:
    def work(task: int) -> Iterator[int]:
        yield task
        time.sleep(0.5)

    return work


@pytest.mark.parametrize("actors", [False, True])
def test_no_thread_goes_on_once_it_is_closed(actors: bool) -> None:
    before = set(threading.enumerate())
    with closing(run_on_ray(slow, list(range(20)), workers=2, actors=actors)) as answers:
        next(answers)
        assert set(threading.enumerate()) - before
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert not names
