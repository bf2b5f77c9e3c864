from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itpn_ray.data.manifest import read_manifest
from itpn_ray.data.prepare import Progress, prepare
from itpn_ray.data.prepare_config import PrepareConfig
from itpn_ray.data.shards import open_dataset
from itpn_ray.errors import ConfigError, DataError, ItpnError
from itpn_ray.ray_config import RayConfig
from itpn_ray.ray_env import start_ray
from tests.data.made_files import config, image_bytes, prepared, write_folders

FOLDERS = {"train/cat": 11, "train/dog": 9, "val/cat": 3, "val/dog": 4}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_picture_arrives_with_its_label(tmp_path: Path) -> None:
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


def test_channel_statistics_are_those_of_the_pictures(tmp_path: Path) -> None:
    for name, colour in (("a", (255, 0, 51)), ("b", (255, 0, 51))):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(4):
            path = tmp_path / "raw" / name / f"{number}.png"
            image = Image.new("RGB", (16, 16), colour)
            image.paste((0, 0, 51), (0, 0, 16, 4))
            image.save(path)
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert manifest.channel_mean == pytest.approx((0.75, 0, 0.2), abs=0.01)
    assert manifest.channel_std == pytest.approx((0.75**0.5 / 2, 0, 0), abs=0.02)


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


def test_a_heap_of_pictures_needs_no_labels(tmp_path: Path) -> None:
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
        "train/dog/Thumbs.db",
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
    # The same folder serves once the pictures are mended; nothing has to be removed.
    for path in raw.rglob("zero*.jpg"):
        path.unlink()
    assert prepare(config(raw, tmp_path / "out", strict=True)).splits["train"].count == 20


def test_progress_counts_pictures_and_shards(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    (tmp_path / "raw/val/cat/zero.jpg").write_bytes(b"")
    calls: list[Progress] = []
    prepare(config(tmp_path / "raw", tmp_path / "out"), calls.append)
    assert [call.shards for call in calls] == [1, 2, 3, 4]
    assert calls[-1] == Progress(
        pictures=28, total_pictures=28, shards=4, total_shards=4, quarantined=1
    )


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    first = prepare(config(tmp_path / "raw", tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    calls: list[Progress] = []
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
import os, signal, sys
from itpn_ray.data.prepare import prepare
from itpn_ray.data.prepare_config import PrepareConfig
from itpn_ray.data import shards
limit = int(sys.argv[3])
append = shards.ShardWriter.append
def counted(self, row, seen=[0]):
    seen[0] += 1
    if seen[0] == limit:
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
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/shard-*.arrow")}
    assert len(finished) == at // 8
    prepare(config(raw, out))
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written
    prepare(config(raw, tmp_path / "whole"))
    assert files(out) == files(tmp_path / "whole")


def test_a_damaged_shard_is_made_again_on_resume(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_folders(raw, FOLDERS)
    subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out), "17"], check=False)
    damaged = next(out.glob("*/shard-*.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
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


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "raw", FOLDERS)
    monkeypatch.chdir(tmp_path)
    assert prepare(config("raw", "out")).splits["train"].count == 20
    assert len(open_dataset("out", "train")) == 20


def bad_source(tmp_path: Path, name: str) -> tuple[Path, str]:
    raw = tmp_path / "raw"
    if name == "missing":
        return raw, "does not exist"
    raw.mkdir()
    if name == "empty":
        return raw, "is empty"
    if name == "no pictures":
        (raw / "notes.txt").write_text("")
        return raw, "holds no pictures"
    if name == "empty classes":
        (raw / "train/cat").mkdir(parents=True)
        (raw / "train/dog").mkdir(parents=True)
        return raw, "holds no pictures"
    if name == "one class":
        write_folders(raw, {"train/cat": 3})
        return raw, "one class"
    if name == "pictures beside classes":
        write_folders(raw, {"cat": 2, "dog": 2, "": 1})
        return raw, "pictures beside them"
    if name == "val has another class":
        write_folders(raw, {"train/cat": 2, "train/dog": 2, "val/emu": 1})
        return raw, "val has classes that train has not: emu"
    if name == "val without labels":
        write_folders(raw, {"train/cat": 2, "train/dog": 2, "val": 1})
        return raw, "lies in no class folder"
    if name == "one picture":
        write_folders(raw, {"": 1})
        return raw, "only picture"
    if name == "all broken":
        for path in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"):
            (raw / path).parent.mkdir(exist_ok=True)
            (raw / path).write_bytes(b"")
        return raw, "no usable picture"
    path = raw / "file.jpg"
    path.write_bytes(image_bytes(0))
    return path, "is not a folder"


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "empty",
        "no pictures",
        "empty classes",
        "one class",
        "pictures beside classes",
        "val has another class",
        "val without labels",
        "one picture",
        "all broken",
        "a file",
    ],
)
def test_a_bad_source_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    source, cause = bad_source(tmp_path, name)
    start = time.monotonic()
    with pytest.raises(DataError, match=cause) as caught:
        prepare(config(source, tmp_path / "out", max_broken=1.0))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5
    assert not (tmp_path / "out/manifest.json").exists()
    if name != "all broken":
        assert not (tmp_path / "out").exists()


def test_a_bad_output_is_told(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, FOLDERS)
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    for out, cause in (
        (tmp_path / "file" / "out", "cannot be written"),
        (tmp_path / "mine", "holds something else already"),
        (raw / "out", "lies in the source"),
        (raw, "lies in the source"),
    ):
        with pytest.raises(ConfigError, match=cause):
            prepare(config(raw, out))
    assert (tmp_path / "mine/thesis.tex").exists()


def test_a_full_disk_says_that_finished_shards_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from itpn_ray.data.shard_job import ShardJob

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_folders(tmp_path / "raw", FOLDERS)
    monkeypatch.setattr(ShardJob, "make", full)
    with pytest.raises(DataError, match=r"No space left.*finished shards are kept"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))


@pytest.mark.parametrize(
    "field",
    [
        {"format": "voc"},
        {"holdout": 0.0},
        {"holdout": 1.0},
        {"max_side": 4},
        {"quality": 0},
        {"max_pixels": 10**9},
        {"shard_rows": 0},
        {"shard_mb": 0},
        {"max_broken": 1.5},
        {"seed": -1},
        {"num_workers": -1},
    ],
)
def test_config_is_checked(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"prepare.{next(iter(field))}"):
        PrepareConfig(source="a", out="b", **field)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "form"), [("labels", "csv"), ("unlabelled", "coco"), ("classes", "coco")]
)
def test_a_field_that_would_be_ignored_is_refused(tmp_path: Path, field: str, form: str) -> None:
    value = True if field == "unlabelled" else "list.txt"
    with pytest.raises(ConfigError, match=f"is not used with the format {form}"):
        prepare(config(tmp_path, tmp_path / "out", format=form, **{field: value}))


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


def test_a_picture_that_goes_missing_is_listed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, FOLDERS)
    gone = raw / "val/dog/003.jpg"

    def remove(progress: Progress) -> None:
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
    from itpn_ray.data.doctor import doctor
    from itpn_ray.data.faults import FaultList
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
    calls: list[Progress] = []
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
    assert calls[-1].pictures == 27


def test_config_travels_as_a_plain_dictionary() -> None:
    fields = dataclasses.asdict(PrepareConfig(source="a", out="b"))
    assert PrepareConfig(**json.loads(json.dumps(fields))) == PrepareConfig(source="a", out="b")
