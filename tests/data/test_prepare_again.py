from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.prepare.tally import PrepareProgress
from itpn_ray.data.store.shards import ShardWriter, open_dataset
from itpn_ray.errors import ConfigError, DataError
from tests.data.made_files import FOLDERS, config, files, write_folders


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    first = prepare(config(tmp_path / "raw", tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    calls: list[PrepareProgress] = []
    assert prepare(config(tmp_path / "raw", tmp_path / "out"), calls.append) == first
    assert not calls
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_another_preparation_is_not_overwritten(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    prepare(config(tmp_path / "raw", tmp_path / "out"))
    with pytest.raises(ConfigError, match="holds another preparation"):
        prepare(config(tmp_path / "raw", tmp_path / "out", max_side=16))
    write_folders(tmp_path / "raw", {"train/cat": 12})
    with pytest.raises(ConfigError, match="holds another preparation"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))


KILLED = """
import glob, os, signal, sys, time
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.store import shards
limit = int(sys.argv[3])
append = shards.ShardWriter.append
def counted(self, row, seen=[0]):
    seen[0] += 1
    if seen[0] == limit:
        # The shard before may still be on its way to the disk.
        while len(glob.glob(sys.argv[2] + "/_work/done/*.json")) < limit // 8:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, row)
shards.ShardWriter.append = counted
prepare(PrepareConfig(source=sys.argv[1], out=sys.argv[2], num_workers=0, shard_rows=8))
"""


@pytest.mark.parametrize("at", [3, 17])
def test_killed_and_repeated_ends_in_the_same_bytes(tmp_path: Path, at: int) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_folders(raw, FOLDERS)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(raw), str(out), str(at)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match=r"no manifest.json"):
        open_dataset(str(out), "train")
    records = [path.stem.split("-") for path in out.glob("_work/done/*.json")]
    assert len(records) == at // 8
    shards = [out / split / f"shard-{index}.arrow" for split, index in records]
    finished = {path: path.stat().st_mtime_ns for path in shards}
    (out / "_work/.left-behind").touch()
    prepare(config(raw, out))
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written
    prepare(config(raw, tmp_path / "whole"))
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("how", ["cut short", "killed before it was recorded"])
def test_a_shard_that_is_not_sure_is_made_again_on_resume(tmp_path: Path, how: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_folders(raw, FOLDERS)
    subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out), "17"], check=False)
    record = next(out.glob("_work/done/*.json"))
    split, index = record.stem.split("-")
    shard = out / split / f"shard-{index}.arrow"
    if how == "cut short":
        shard.write_bytes(shard.read_bytes()[:-10])
    else:
        record.unlink()
    prepare(config(raw, out))
    prepare(config(raw, tmp_path / "whole"))
    assert files(out) == files(tmp_path / "whole")


def test_shards_of_an_unfinished_plan_do_not_stay(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_folders(raw, FOLDERS)
    subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out), "26"], check=False)
    assert len(list(out.glob("*/shard-*.arrow"))) == 3
    prepare(config(raw, out, shard_rows=100))
    prepare(config(raw, tmp_path / "whole", shard_rows=100))
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("where", ["writing", "bringing to the disk"])
def test_a_full_disk_says_that_finished_shards_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fsync = os.fsync

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def full_in_the_background(file: int) -> None:
        (fsync if threading.current_thread() is threading.main_thread() else full)(file)

    write_folders(tmp_path / "raw", FOLDERS)
    with monkeypatch.context() as broken:
        if where == "writing":
            broken.setattr(ShardWriter, "append", full)
        else:
            broken.setattr(os, "fsync", full_in_the_background)
        with pytest.raises(DataError, match=r"No space left.*finished shards are kept"):
            prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.tmp"))
    prepare(config(tmp_path / "raw", tmp_path / "out"))
