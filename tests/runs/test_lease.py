import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from itpn_ray.errors import ConfigError, RunError
from itpn_ray.runs.lease import Holder, Lease
from itpn_ray.storage import check_writable, open_store, s3
from itpn_ray.storage.local import LocalStore


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return request.getfixturevalue("s3_uri") + "/run"


def lease_at(uri, **options) -> Lease:
    return Lease(str(uri), name="night-run", **options)


def leave(uri, number: int = 1, **changes) -> None:
    """Leave the lease of another process behind."""
    holder = replace(Holder.here(), token="other", **changes)
    content = json.dumps(asdict(holder)).encode()
    open_store(str(uri)).write_bytes(f"lease/{number:09d}.json", content)


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_driver_is_refused_and_told_by_whom(uri):
    with lease_at(uri) as first:
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=r"run = 'night-run': is in use by process \d+ on "):
            lease_at(uri).acquire()
        assert time.monotonic() - begin < 30  # half of what makes a silent holder a dead one
        first.check()
    # Given back, it is free at once.
    with lease_at(uri):
        assert len(open_store(uri).list("lease/")) == 1


def test_a_driver_that_died_on_this_machine_is_replaced_at_once(uri, caplog):
    pid = ended_process()
    leave(uri, pid=pid)
    with lease_at(uri):
        assert f"took the run over from process {pid}" in caplog.text


def test_a_process_number_given_again_is_not_the_old_holder(tmp_path):
    leave(tmp_path, started=time.time() - 86400)
    with lease_at(tmp_path) as lease:
        lease.check()


def seen_ago(monkeypatch, seconds: float) -> None:
    """Let the last sign of life be so old, by the clock of the store."""
    for store in (LocalStore, s3.S3Store):
        monkeypatch.setattr(store, "age", lambda self, key: seconds)


@pytest.mark.parametrize("clock", [0.0, -300.0, 300.0])
def test_a_driver_on_another_machine_is_dead_once_it_gave_no_sign_of_life(uri, monkeypatch, clock):
    """Whatever the clock of its machine says."""
    leave(uri, machine="elsewhere", host="elsewhere", beat=time.time() + clock)
    seen_ago(monkeypatch, 40)
    with pytest.raises(ConfigError, match=r"on elsewhere \(sign of life 40 s ago\).*60 s later"):
        lease_at(uri).acquire()
    seen_ago(monkeypatch, 61)
    with lease_at(uri, heartbeat=0.02) as lease:
        lease.check()


def test_the_age_of_a_sign_of_life_is_that_of_the_store(uri):
    leave(uri, machine="elsewhere", beat=time.time() - 300)
    assert open_store(uri).age("lease/000000001.json") < 30
    with pytest.raises(ConfigError, match=r"sign of life \d s ago"):
        lease_at(uri).acquire()


def test_a_driver_that_was_silent_while_the_store_was_away_is_seen_to_live(uri, monkeypatch):
    """It gives its next sign of life while it is watched."""
    leave(uri, machine="elsewhere", host="elsewhere", beat=1.0)
    seen_ago(monkeypatch, 61)

    def beat(seconds: float) -> None:
        leave(uri, machine="elsewhere", host="elsewhere", beat=2.0)
        seen_ago(monkeypatch, 0)

    monkeypatch.setattr("itpn_ray.runs.lease.time.sleep", beat)
    with pytest.raises(ConfigError, match=r"is in use by process .* on elsewhere"):
        lease_at(uri).acquire()


def test_a_driver_here_that_was_suspended_still_holds_it(tmp_path):
    leave(tmp_path, beat=time.time() - 3600)
    with pytest.raises(ConfigError, match="is in use"):
        lease_at(tmp_path).acquire()


def test_of_many_that_would_take_over_one_does(uri):
    leave(uri, pid=ended_process())
    leases = [lease_at(uri) for _ in range(8)]

    def attempt(lease) -> bool:
        try:
            lease.acquire()
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(attempt, leases))
    assert sum(got) == 1
    leases[got.index(True)].check()
    for lease in leases:
        lease.release()
    assert lease_at(uri)._current()[1].released


def test_signs_of_life_are_given(uri):
    with lease_at(uri, heartbeat=0.05) as lease:
        first = lease._current()[1].beat
        while lease._current()[1].beat == first:
            time.sleep(0.02)


def test_a_driver_that_was_replaced_finds_out(uri):
    with lease_at(uri, heartbeat=0.05) as lease:
        leave(uri, number=2, pid=4242, host="elsewhere")
        lease._thread.join()
        with pytest.raises(RunError, match="taken over by process 4242 on elsewhere"):
            lease.check()
    assert not lease_at(uri)._current()[1].released


def test_a_store_that_fails_for_a_while_does_not_end_the_lease(tmp_path, monkeypatch, caplog):
    with lease_at(tmp_path, heartbeat=0.02) as lease:

        def fail(*args):
            raise OSError("connection reset")

        monkeypatch.setattr(LocalStore, "write_bytes", fail)
        while "no sign of life could be given: connection reset" not in caplog.text:
            time.sleep(0.01)
        monkeypatch.undo()
        first = lease._current()[1].beat
        while lease._current()[1].beat == first:
            time.sleep(0.01)
        lease.check()


def test_an_unreadable_lease_is_not_taken_for_none(tmp_path):
    open_store(str(tmp_path)).write_bytes("lease/000000001.json", b"")
    with pytest.raises(ConfigError, match=r"lease/000000001.json is unreadable.*Delete that file"):
        lease_at(tmp_path).acquire()


def test_a_lease_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        lease_at(tmp_path / "file").acquire()


def test_lost_answers_do_not_deny_the_lease_to_who_got_it(flaky_s3, s3_uri, monkeypatch):
    server = flaky_s3(lose=0.4)
    monkeypatch.setattr(s3.random, "random", lambda: 0.05)  # short pauses
    with lease_at(s3_uri) as lease:
        lease.check()
    assert server.counts["lost"] > 0


def test_a_lease_leaves_the_place_usable(tmp_path):
    with lease_at(tmp_path / "new"):
        check_writable(str(tmp_path / "new"))
