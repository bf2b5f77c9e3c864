from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare, task_sizes
from itpn_ray.data.prepare.merge import _channels
from itpn_ray.data.prepare.reencode import ImageRules, reencode
from itpn_ray.data.prepare.shard_job import ShardRecord, read_record
from itpn_ray.data.prepare.tally import PrepareProgress
from itpn_ray.data.store.manifest import INDEX, read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import DataError, ItpnError
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import start_ray
from tests.data.made_files import FOLDERS, config, files, image_bytes, prepared, write_folders

RULES = ImageRules(max_side=None, quality=90, max_pixels=2**20)


def test_every_image_arrives_with_its_label(tmp_path: Path) -> None:
    written = write_folders(tmp_path / "raw", FOLDERS)
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert {row["path"]: row["image"] for part in rows.values() for row in part} == written
    for split, part in rows.items():
        for row in part:
            assert row["path"].split("/")[:2] == [split, ("cat", "dog")[row["label"]]]
            assert (row["width"], row["height"]) == (40, 32)


def test_the_manifest_tells_counts_classes_and_digests(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert manifest == read_manifest(str(tmp_path / "out"))
    assert (manifest.kind, manifest.classes) == ("classification", ("cat", "dog"))
    assert manifest.splits["train"].class_counts == (11, 9)
    assert manifest.splits["val"].class_counts == (3, 4)
    assert [shard.rows for shard in manifest.splits["train"].shards] == [6, 7, 7]
    assert manifest.quarantined == 0


def test_channel_statistics_are_those_of_the_images(tmp_path: Path) -> None:
    for name, colour in (("a", (255, 0, 51)), ("b", (255, 0, 51))):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(4):
            path = tmp_path / "raw" / name / f"{number}.png"
            image = Image.new("RGB", (16, 16), colour)
            image.paste((0, 0, 51), (0, 4 * number, 16, 4 * number + 4))
            image = image if name == "a" else image.transpose(Image.Transpose.TRANSPOSE)
            image.save(path)
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert manifest.channel_mean == pytest.approx((0.75, 0, 0.2), abs=0.01)
    assert manifest.channel_std == pytest.approx((0.75**0.5 / 2, 0, 0), abs=0.02)


def test_each_image_counts_the_same_in_the_channel_statistics() -> None:
    record = ShardRecord(digest="")
    for side, value in ((2, 255), (400, 0)):
        data = io.BytesIO()
        Image.new("RGB", (side, side), (value, value, value)).save(data, "PNG")
        image = reencode(data.getvalue(), RULES, measured=True)
        record.count({"label": 0}, image)
    assert record.measured == 2
    assert _channels([record]) == ((0.5,) * 3, (0.5,) * 3)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    for name in ("a", "b"):
        prepare(config(tmp_path / "raw", tmp_path / name))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    prepare(config(tmp_path / "raw", tmp_path / "c", seed=1))
    assert files(tmp_path / "a").keys() == files(tmp_path / "c").keys()
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_train_is_shuffled_and_val_is_in_order(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    paths = {split: [row["path"] for row in part] for split, part in rows.items()}
    assert paths["val"] == sorted(paths["val"])
    assert paths["train"] != sorted(paths["train"])


def test_a_held_out_share_of_each_class_becomes_val(tmp_path: Path) -> None:
    written = write_folders(tmp_path / "raw", {"cat": 20, "dog": 10, "emu": 1})
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out", holdout=0.2))
    assert manifest.splits["val"].class_counts == (4, 2, 0)
    assert manifest.splits["train"].class_counts == (16, 8, 1)
    assert "0.2 of each class" in manifest.splits["val"].origin
    rows = prepared(tmp_path / "raw", tmp_path / "out", holdout=0.2)
    assert sorted(row["path"] for part in rows.values() for row in part) == sorted(written)


def test_copies_of_an_image_are_held_out_together(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, {"cat": 12, "dog": 12, "emu": 1, "fox": 1})
    for number in range(12):  # copies within a class, in another class, and under other names
        for name in ("cat/copy", "cat/x", "dog/copy"):
            shutil.copy(raw / f"cat/{number:03d}.jpg", raw / f"{name}{number}.jpg")
    for number in range(4):  # a class of copies only stays in train
        shutil.copy(raw / "emu/000.jpg", raw / f"emu/{number}.jpg")
    rows = prepared(raw, tmp_path / "out", holdout=0.25)
    sides = {split: {row["image"] for row in part} for split, part in rows.items()}
    assert not sides["train"] & sides["val"]
    assert sum(map(len, rows.values())) == 66
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest.splits["val"].class_counts == (9, 6, 0, 0)


def test_copies_of_one_image_cannot_be_held_out(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"": 1})
    for number in range(3):
        shutil.copy(tmp_path / "raw/000.jpg", tmp_path / f"raw/copy{number}.jpg")
    with pytest.raises(DataError, match="has the bytes of all others"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))


def test_a_heap_of_images_needs_no_labels(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"": 12})
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert {row["label"] for part in rows.values() for row in part} == {-1}
    manifest = read_manifest(str(tmp_path / "out"))
    assert (manifest.kind, manifest.classes) == ("unlabelled", ())
    assert (manifest.splits["train"].count, manifest.splits["val"].count) == (11, 1)


def test_unlabelled_ignores_folders(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"2023/may": 3, "2024": 4, "": 3})
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out", unlabelled=True))
    assert manifest.kind == "unlabelled"
    assert sum(split.count for split in manifest.splits.values()) == 10


def test_what_cannot_be_used_is_listed_and_the_rest_is_untouched(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    written = write_folders(raw, FOLDERS)
    (raw / "train/cat/page.JPEG").write_text("<html>not found</html>")
    (raw / "train/cat/zero.jpg").write_bytes(b"")
    (raw / "train/dog/half.jpg").write_bytes(image_bytes(99)[:-30])
    (raw / "train/dog/Thumbs.db").write_bytes(b"junk")
    (raw / "val/dog/notes.txt").write_text("mine")
    rows = prepared(raw, tmp_path / "out", max_broken=0.5)
    assert {row["path"]: row["image"] for part in rows.values() for row in part} == written
    with (tmp_path / "out/quarantine.csv").open() as stream:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(stream)}
    assert listed.keys() == {
        "train/cat/page.JPEG",
        "train/cat/zero.jpg",
        "train/dog/half.jpg",
        "train/dog/Thumbs.db",  # all leftovers count as one
        "val/dog/notes.txt",
    }
    assert "web page" in listed["train/cat/page.JPEG"]
    assert "truncated" in listed["train/dog/half.jpg"]
    assert read_manifest(str(tmp_path / "out")).quarantined == 5


def test_strict_and_the_threshold_stop(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, FOLDERS)
    (raw / "train/cat/zero.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/cat/zero.jpg: the file is empty"):
        prepare(config(raw, tmp_path / "out", strict=True))
    for number in range(5):
        (raw / f"train/dog/zero{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be used and 3 are allowed"):
        prepare(config(raw, tmp_path / "out", max_broken=0.1))
    assert not (tmp_path / "out/manifest.json").exists()
    # The same folder serves once the images are fixed; nothing has to be removed.
    for path in raw.rglob("zero*.jpg"):
        path.unlink()
    assert prepare(config(raw, tmp_path / "out", strict=True)).splits["train"].count == 20


def test_progress_counts_images_and_shards(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    (tmp_path / "raw/val/cat/zero.jpg").write_bytes(b"")
    calls: list[PrepareProgress] = []
    prepare(config(tmp_path / "raw", tmp_path / "out"), calls.append)
    assert [call.shards for call in calls] == [1, 2, 3, 4]
    assert calls[-1] == PrepareProgress(
        images=28, total_images=28, shards=4, total_shards=4, quarantined=1
    )


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    monkeypatch.chdir(tmp_path)
    assert prepare(config("raw", "out")).splits["train"].count == 20
    assert len(open_dataset("out", "train")) == 20


def test_what_real_folders_hold_does_no_harm(tmp_path: Path) -> None:
    """Links in circles, links to nowhere, pipes, names that are not UTF-8 or hold a line break."""
    raw = tmp_path / "raw"
    write_folders(raw, {"train/cat": 3, "train/dog": 3})
    cat = raw / "train/cat"
    os.mkfifo(cat / "pipe.jpg")
    (cat / "dead.jpg").symlink_to("/nonexistent")
    (cat / "circle").symlink_to(cat)
    (cat / "linked.jpg").symlink_to(raw / "train/dog/000.jpg")
    (cat / "line\nbreak, comma.jpg").write_bytes(image_bytes(50))
    os.close(os.open(os.fsencode(cat) + b"/\xff.jpg", os.O_CREAT | os.O_WRONLY))
    manifest = prepare(config(raw, tmp_path / "out", holdout=0.2))
    assert sum(split.count for split in manifest.splits.values()) == 8
    with (tmp_path / "out/quarantine.csv").open(newline="") as stream:
        reasons = sorted(row["reason"] for row in csv.DictReader(stream))
    assert reasons == [
        "a link to a folder that it lies in",
        "a link to nowhere",
        "its name is not UTF-8",
        "not a regular file",
    ]


def test_an_image_that_goes_missing_is_listed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, FOLDERS)
    gone = raw / "val/dog/003.jpg"

    def remove(progress: PrepareProgress) -> None:
        gone.unlink(missing_ok=True)

    manifest = prepare(config(raw, tmp_path / "out"), remove)
    assert manifest.splits["val"].count == 6
    assert "the file is gone" in (tmp_path / "out/quarantine.csv").read_text()


def test_max_side_shrinks_and_is_recorded(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    rows = prepared(tmp_path / "raw", tmp_path / "out", max_side=20)
    assert {(row["width"], row["height"]) for row in rows["train"]} == {(20, 16)}
    assert read_manifest(str(tmp_path / "out")).settings["max_side"] == 20


def test_the_index_agrees_with_the_rows(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    dataset = open_dataset(str(tmp_path / "out"), "train")
    np.testing.assert_array_equal(dataset.labels, [row["label"] for row in rows["train"]])
    assert dataset.index.column("width").to_pylist() == [row["width"] for row in rows["train"]]


def test_nothing_temporary_is_left(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert {path.split("/")[-1].split("-")[0] for path in files(tmp_path / "out")} == {
        "manifest.json",
        "quarantine.csv",
        "index.arrow",
        "shard",
    }
    assert not (tmp_path / "out/_work").exists()


def test_s3_in_and_out(tmp_path: Path, s3_uri: str) -> None:
    from itpn_ray.data.doctor.fault_list import FaultList
    from itpn_ray.data.doctor.prepared import doctor
    from itpn_ray.storage import open_store

    written = write_folders(tmp_path / "raw", FOLDERS)
    raw = open_store(f"{s3_uri}/raw")
    for path, data in written.items():
        raw.write_bytes(path, data)
    remote = prepare(config(f"{s3_uri}/raw", f"{s3_uri}/out"))
    local = prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert [s.sha256 for s in remote.splits["train"].shards] != []
    for split in ("train", "val"):
        theirs = open_dataset(f"{s3_uri}/out", split)
        ours = open_dataset(str(tmp_path / "out"), split)
        assert theirs.shards == ours.shards
    assert remote.splits["train"].class_counts == local.splits["train"].class_counts
    with FaultList(tmp_path / "doctor.csv") as faults:
        assert doctor(f"{s3_uri}/out", faults).sound
    assert prepare(config(f"{s3_uri}/raw", f"{s3_uri}/out")) == remote


def test_ray_gives_the_same_bytes_and_errors(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, FOLDERS)
    prepare(config(raw, tmp_path / "alone"))
    calls: list[PrepareProgress] = []
    with start_ray(RayConfig(num_cpus=2)):
        prepare(config(raw, tmp_path / "ray", num_workers=2), calls.append)
        (raw / "train/dog/zero.jpg").write_bytes(b"")
        with pytest.raises(ItpnError, match=r"zero.jpg: the file is empty"):
            prepare(config(raw, tmp_path / "strict", num_workers=2, strict=True))
        (tmp_path / "fail").mkdir()
        (tmp_path / "fail/train").write_text("")  # a file where the shards' folder should be
        with pytest.raises(DataError, match=r"stopped: .*finished shards are kept"):
            prepare(config(raw, tmp_path / "fail", num_workers=2))
    assert files(tmp_path / "alone") == files(tmp_path / "ray")
    assert calls[-1].images == 27


def worker_at_work() -> psutil.Process:
    """The process that runs a task of Ray Data; between two tasks it has another name."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "MapB" in process.name():
                    return process
    raise AssertionError("no worker is at work")


def test_a_worker_that_dies_loses_no_finished_shard(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_folders(raw, FOLDERS)
    prepare(config(raw, tmp_path / "alone", shard_rows=1))
    finished: dict[Path, int] = {}

    def kill_a_worker(progress: PrepareProgress) -> None:
        if progress.shards == 2:
            shards = [read_record(p.read_bytes()).shard for p in out.glob("_work/done/train*.json")]
            paths = [out / "train" / shard.file for shard in shards if shard]
            finished.update({path: path.stat().st_mtime_ns for path in paths})
            worker_at_work().kill()

    with start_ray(RayConfig(num_cpus=2)):
        prepare(config(raw, out, num_workers=1, shard_rows=1), kill_a_worker)
    assert len(finished) >= 2
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    assert files(out) == files(tmp_path / "alone")


@given(shards=st.integers(0, 3000), workers=st.integers(1, 200))
def test_tasks_become_smaller_until_each_makes_one_shard(shards: int, workers: int) -> None:
    sizes = list(task_sizes(shards, workers))
    assert sum(sizes) == shards
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) <= set(range(1, 9))
    assert set(sizes[-workers:]) <= {1}


def test_config_travels_as_a_plain_dictionary() -> None:
    fields = dataclasses.asdict(PrepareConfig(source="a", out="b"))
    assert PrepareConfig(**json.loads(json.dumps(fields))) == PrepareConfig(source="a", out="b")


def test_nothing_stays_of_a_split_that_the_plan_does_not_have(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    out = tmp_path / "out"
    # As an unfinished preparation that had a test split leaves it.
    (out / "test").mkdir(parents=True)
    for name in (INDEX, "shard-00000.arrow"):
        (out / "test" / name).write_bytes(b"earlier")
    manifest = prepare(config(tmp_path / "raw", out))
    assert "test" not in manifest.splits
    assert not list((out / "test").glob("*"))
    assert (out / "train" / INDEX).is_file()
