import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from itpn_ray.commands.chaos.faults import full_disk, kill
from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.storage import s3
from itpn_ray.storage.local import LocalStore
from itpn_ray.training.checkpoint.manifest import CheckpointManifest, FileEntry
from itpn_ray.training.checkpoint.state_files import state_digest
from itpn_ray.training.checkpoint.writer import CheckpointStore, open_checkpoint

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def state_at(step: int, size: int = 100) -> dict:
    """The state of a run at a step: all of it follows from the step."""
    draw = torch.Generator().manual_seed(step)
    weights = {"weight": torch.randn(size, 3, generator=draw), "bias": torch.full((), float(step))}
    moments = {0: {"step": torch.tensor(float(step)), "exp_avg": weights["weight"] / 2}}
    return {
        "model": weights,
        "optimizer": {"state": moments, "param_groups": [{"betas": (0.9, 0.999), "params": [0]}]},
        "progress": {"step": step, "best": float("-inf")},
    }


def files_below(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def saved(uri, *steps, **options) -> CheckpointStore:
    store = CheckpointStore(str(uri), **options)
    for step in steps:
        store.save(step, state_at(step), epoch=step / 10)
    store.wait()
    return store


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "checkpoints")
    return request.getfixturevalue("s3_uri") + "/run/checkpoints"


def test_a_state_comes_back_bit_by_bit(uri):
    store = saved(uri, 10, 20)
    found = CheckpointStore(uri).latest_good()
    assert (found.step, found.epoch, found.problems) == (20, 2.0, ())
    assert state_digest(found.load()) == state_digest(state_at(20))
    assert state_digest(store.load(10).load()) == state_digest(state_at(10))
    assert found.load("progress") == {"progress": state_at(20)["progress"]}
    assert store.steps() == [10, 20]
    assert state_digest(open_checkpoint(f"{uri}/last").load()) == state_digest(state_at(20))
    assert open_checkpoint(f"{uri}/step-000000010").step == 10
    assert [report.step for report in store.finished()] == [10, 20]
    assert store.finished() == []


def test_without_a_checkpoint_there_is_none(uri):
    store = CheckpointStore(uri)
    assert store.latest_good() is None
    assert store.steps() == []
    with pytest.raises(CheckpointError, match="is missing"):
        store.load(10)
    with pytest.raises(CheckpointError, match="is missing"):
        open_checkpoint(f"{uri}/last")


def test_last_is_a_folder_of_the_newest(tmp_path):
    saved(tmp_path, 10, 20)
    assert (tmp_path / "last").resolve() == tmp_path / "step-000000020"
    assert files_below(tmp_path / "last") == sorted(FILES)


def test_a_part_that_is_not_there_is_told(tmp_path):
    store = saved(tmp_path, 10)
    with pytest.raises(CheckpointError, match="It has model, optimizer, progress"):
        store.load(10).load("ema")


@pytest.mark.parametrize("name", ["../model", "a/b", "state", "", ".x"])
def test_a_part_needs_a_plain_name(tmp_path, name):
    with pytest.raises(CheckpointError, match="no part's name"):
        CheckpointStore(str(tmp_path)).save(1, {name: {"a": 1}})
    assert files_below(tmp_path) == []


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "first" | "middle" | "end":
            content[{"first": 0, "middle": len(content) // 2, "end": -1}[how]] ^= 1
        case "cut one":
            del content[-1:]
        case "cut half":
            del content[len(content) // 2 :]
        case "cut all":
            content.clear()
        case "longer":
            content += b"x"
    path.unlink()
    if how != "missing":
        path.write_bytes(content)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "how", ["first", "middle", "end", "cut one", "cut half", "cut all", "longer", "missing"]
)
def test_a_damaged_file_is_found_and_named_and_the_previous_checkpoint_used(
    tmp_path, caplog, file, how
):
    saved(tmp_path, 10, 20)
    damage(tmp_path / "step-000000020" / file, how)
    store = CheckpointStore(str(tmp_path))
    found = store.latest_good()
    assert found.step == 10
    assert state_digest(found.load()) == state_digest(state_at(10))
    (problem,) = found.problems
    assert f"step-000000020/{file}" in problem
    assert ("missing" if how == "missing" else "cut" if "cut" in how else "changed") in problem
    assert problem in caplog.text
    # A run goes on from there, and its next save takes the bad one away.
    store.save(15, state_at(15))
    store.wait()
    assert store.steps() == [10, 15]
    assert store.latest_good().problems == ()


def test_damage_in_s3_is_found_too(s3_uri, caplog):
    store = saved(s3_uri, 10, 20)
    objects = store._store
    key = "step-000000020/model.safetensors"
    objects.write_bytes(key, objects.read_bytes(key)[:-1] + b"\xff")
    found = CheckpointStore(s3_uri).latest_good()
    assert found.step == 10
    assert f"{key} is changed" in caplog.text
    objects.delete("step-000000010/manifest.json")
    with pytest.raises(CheckpointError, match="no good checkpoint is left") as told:
        CheckpointStore(s3_uri).latest_good()
    assert key in str(told.value)


def test_where_none_is_good_the_run_does_not_start_anew(tmp_path):
    saved(tmp_path, 10, 20)
    for step in (10, 20):
        damage(tmp_path / f"step-{step:09d}" / "state.json", "cut half")
    with pytest.raises(CheckpointError, match="no good checkpoint is left") as told:
        CheckpointStore(str(tmp_path)).latest_good()
    assert "step-000000010/state.json is cut" in str(told.value)
    assert "step-000000020/state.json is cut" in str(told.value)


def test_a_store_that_fails_is_no_reason_to_go_back(tmp_path, monkeypatch):
    store = saved(tmp_path, 10, 20)

    def fail(self, key):
        if "000020" in key:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, key)

    real = LocalStore.read_bytes
    monkeypatch.setattr(LocalStore, "read_bytes", fail)
    with pytest.raises(CheckpointError, match="cannot be read"):
        store.latest_good()


def test_training_goes_on_while_a_save_is_written(tmp_path, monkeypatch):
    gate = threading.Event()
    real = LocalStore.put_file
    monkeypatch.setattr(
        LocalStore, "put_file", lambda *args, **options: gate.wait() and real(*args, **options)
    )
    store = CheckpointStore(str(tmp_path))
    state = state_at(10)
    store.save(10, state)
    state["model"]["weight"].zero_()
    state["progress"]["step"] = 11
    assert store.finished() == []
    assert store.latest_good() is None
    gate.set()
    store.wait()
    (report,) = store.finished()
    assert report.paused < report.seconds
    assert state_digest(store.latest_good().load()) == state_digest(state_at(10))


def test_a_failed_save_is_told_once_at_the_next_call(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = saved(tmp_path, 10)
    before = files_below(tmp_path)
    monkeypatch.setattr(LocalStore, "put_file", fail)
    store.save(20, state_at(20))
    while not store._pending.done():
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match=r"No space left.*Free some space"):
        store.finished()
    monkeypatch.undo()
    assert [report.step for report in store.finished()] == [10]
    assert files_below(tmp_path) == before
    store.save(30, state_at(30))
    store.wait()
    assert store.steps() == [10, 30]


def test_a_disk_that_fills_at_any_write_leaves_the_last_good_one(tmp_path, monkeypatch):
    """Let the first, second, third ... write of a save fail, until one save has enough room."""
    room = 0

    def limited(name):
        real = getattr(os, name)

        def call(*args):
            nonlocal room
            room -= 1
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        monkeypatch.setattr(os, name, call)

    told = []
    for allowed in range(50):
        folder = tmp_path / str(allowed)
        store = saved(folder, 10)
        before = files_below(folder)
        room = allowed
        limited("fsync")
        limited("replace")
        try:
            store.save(20, state_at(20), background=False)
        except CheckpointError as error:
            told.append(str(error))
            monkeypatch.undo()
            found = CheckpointStore(str(folder)).latest_good()
            assert found.problems == ()
            assert state_digest(found.load()) == state_digest(state_at(found.step))
            if found.step == 10:
                assert files_below(folder) == before
        else:
            monkeypatch.undo()
            break
    assert len(told) > 8
    assert all("No space left on device" in line for line in told)
    assert CheckpointStore(str(folder)).latest_good().step == 20


def test_a_disk_that_is_really_full(tmp_path):
    store = saved(tmp_path, 10)
    before = files_below(tmp_path)
    with full_disk(os.getpid(), 100_000), pytest.raises(CheckpointError, match="Free some space"):
        store.save(20, state_at(20, size=100_000), background=False)
    assert files_below(tmp_path) == before
    assert store.latest_good().step == 10
    store.save(20, state_at(20, size=100_000), background=False)
    assert store.latest_good().step == 20


def save_on_and_on(uri: str) -> None:
    store = CheckpointStore(uri, keep_last=2)
    latest = store.latest_good()
    step = latest.step if latest else 0
    while True:
        step += 1
        store.save(step, state_at(step))


@pytest.mark.parametrize("round_", range(3))
def test_a_process_killed_while_saving_leaves_a_good_checkpoint(tmp_path, round_):
    saved(tmp_path, 1)
    newest = 1
    for kill_number in range(5):
        process = multiprocessing.get_context("fork").Process(
            target=save_on_and_on, args=(str(tmp_path),)
        )
        process.start()
        while CheckpointStore(str(tmp_path)).steps()[-1] == newest:
            time.sleep(0.005)
        time.sleep(0.013 * kill_number + 0.005 * round_)
        kill(process.pid)
        process.join()
        found = CheckpointStore(str(tmp_path)).latest_good()
        assert found.problems == ()
        assert state_digest(found.load()) == state_digest(state_at(found.step))
        assert found.step > newest
        newest = found.step
    assert newest > 5
    # What the killed left unfinished goes with the next save.
    saved(tmp_path, newest + 1, keep_last=2)
    folders = {name.partition("/")[0] for name in files_below(tmp_path)} - {".last.new"}
    assert folders == {f"step-{newest:09d}", f"step-{newest + 1:09d}"}


def test_keep_last_and_keep_every(uri):
    store = saved(uri, *range(10, 100, 10), keep_last=2, keep_every=30)
    assert store.steps() == [30, 60, 80, 90]
    assert saved(uri, 100, keep_last=1).steps() == [100]


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_every": -1}])
def test_numbers_that_keep_nothing_are_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        CheckpointStore(str(tmp_path), **options)


def test_a_step_saved_again_stays_whole(tmp_path):
    store = saved(tmp_path, 10)
    manifest = (tmp_path / "last/manifest.json").read_bytes()
    store.save(10, state_at(10))
    store.wait()
    assert (tmp_path / "last/manifest.json").read_bytes() == manifest
    store.save(10, state_at(11))
    store.wait()
    assert state_digest(store.latest_good().load()) == state_digest(state_at(11))
    damage(tmp_path / "last/model.safetensors", "middle")
    store.save(10, state_at(11))
    store.wait()
    assert store.latest_good().problems == ()


def test_a_file_that_changes_on_its_way_is_noticed_before_the_manifest(tmp_path, monkeypatch):
    store = saved(tmp_path, 10)
    real = LocalStore.put_file

    def spoil(self, source, key, *, move=False):
        real(self, source, key, move=move)
        damage(self.local_path(key), "middle")

    monkeypatch.setattr(LocalStore, "put_file", spoil)
    with pytest.raises(CheckpointError, match="differs from what was written"):
        store.save(20, state_at(20), background=False)
    assert store.steps() == [10]
    # In a hurry nothing is read back; what reads it finds the damage.
    store.save(20, state_at(20), background=False, verify=False)
    assert store.latest_good().step == 10


def test_checkpoints_through_an_s3_that_refuses_three_in_ten(flaky_s3, s3_uri, monkeypatch):
    server = flaky_s3(refuse=0.3, lose=0.05, cut=0.05)
    monkeypatch.setattr(s3.random, "random", lambda: 0.05)  # short pauses
    done = threading.Event()

    def watch() -> None:
        reader = CheckpointStore(s3_uri)
        while not done.is_set():
            found = reader.latest_good()
            if found is not None:
                assert state_digest(found.load()) == state_digest(state_at(found.step))
                assert found.problems == ()

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch)
        try:
            store = saved(s3_uri, 10, 20, 30, keep_last=3)
        finally:
            done.set()  # or the pool waits for the reader for ever, and hides the error
        watcher.result()
    assert store.steps() == [10, 20, 30]
    assert server.counts["refused"] > 10


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_a_pickle_in_a_checkpoint_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "checkpoints", 10, 20)
    bomb = pickle.dumps(Bomb())
    folder = tmp_path / "checkpoints/step-000000020"
    manifest = CheckpointManifest.decode((folder / "manifest.json").read_bytes(), "")
    (folder / "model.safetensors").write_bytes(bomb)
    entry = FileEntry(bytes=len(bomb), sha256=hashlib.sha256(bomb).hexdigest())
    files = dict(manifest.files) | {"model.safetensors": entry}
    (folder / "manifest.json").write_bytes(replace(manifest, files=files).encode())
    found = CheckpointStore(str(tmp_path / "checkpoints")).latest_good()
    assert found.step == 20  # every digest fits: it was forged whole
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*is no safetensors file"):
        found.load()
    assert not (tmp_path / "exploded").exists()


def test_a_forged_last_leads_nowhere_else(tmp_path):
    saved(tmp_path / "checkpoints", 10)
    saved(tmp_path / "elsewhere", 50)
    (tmp_path / "checkpoints/last").unlink()
    (tmp_path / "checkpoints/last").symlink_to("../elsewhere/step-000000050")
    assert CheckpointStore(str(tmp_path / "checkpoints")).latest_good().step == 10
    with pytest.raises(CheckpointError, match="no checkpoint's name"):
        open_checkpoint(str(tmp_path / "checkpoints/last"))


def test_secrets_of_the_environment_are_nowhere_in_a_checkpoint(s3_uri, tmp_path, caplog):
    caplog.set_level("DEBUG", logger="itpn_ray")
    store = saved(s3_uri, 10)
    for key in store._store.list():
        assert b"canary" not in store._store.read_bytes(key)
    assert "canary" not in caplog.text
    manifest = json.loads(store._store.read_bytes("step-000000010/manifest.json"))
    assert sorted(manifest["versions"]) == ["itpn_ray", "python", "torch"]
