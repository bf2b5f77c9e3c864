import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.train import PreemptionInfo

from itpn_ray.ray_runtime import compat
from itpn_ray.training.launch.preemption import PreemptionNotice


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_sigterm_is_a_notice_and_the_second_the_end():
    ended = []
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    try:
        with PreemptionNotice() as notice:
            assert not notice()
            terminate()
            assert notice()
            assert notice.deadline is None
            assert ended == []
            terminate()
            assert ended == [True]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_signal_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with PreemptionNotice():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with PreemptionNotice() as notice:
            seen.extend([signal.getsignal(signal.SIGTERM), notice()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]


@pytest.fixture
def ray_worker(monkeypatch):
    """A record like Ray's own of what its watcher told a training worker."""
    told = SimpleNamespace(preemption_info=None)
    record = SimpleNamespace(preemption_context=told)
    monkeypatch.setattr(compat, "find", {"preemption": lambda: record}.get)
    return told


def test_the_draining_of_the_node_is_a_notice(ray_worker):
    with PreemptionNotice() as notice:
        assert not notice()
        deadline = time.time() + 30
        ray_worker.preemption_info = PreemptionInfo(
            deadline_ms=int(deadline * 1000), preempted_node_to_ranks={"node": [1]}
        )
        assert notice()
        assert notice.deadline == pytest.approx(deadline, abs=0.01)


def test_asking_is_cheap(ray_worker):
    with PreemptionNotice() as notice:
        begin = time.thread_time()  # of this thread alone, however busy the machine is
        for _ in range(1000):
            notice()
        assert time.thread_time() - begin < 0.5


@pytest.mark.slow
def test_a_worker_under_ray_notices_that_its_node_is_drained(tmp_path):
    script = Path(__file__).with_name("drain_a_node.py")
    out = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=True, timeout=280
    )
    found = json.loads(out.stdout.splitlines()[-1])
    assert 0 < found["noticed_after"] < 15
    assert 55 < found["deadline_after"] < 65
