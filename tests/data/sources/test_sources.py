from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.sources.lists import read_classes, read_labels
from itpn_ray.data.sources.tars import members
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem, open_store
from tests.data.made_files import config, image_bytes, prepared, write_folders

WNIDS = ("n01440764", "n01443537", "n01484850")


def tar(files: dict[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return out.getvalue()


def labels_of(rows: dict[str, list[dict[str, Any]]], split: str) -> dict[str, int]:
    return {row["path"]: row["label"] for row in rows[split]}


# Folders with lists


def flat_val(root: Path) -> None:
    write_folders(root, {f"train/{wnid}": 3 for wnid in WNIDS})
    for number in range(1, 5):
        path = root / f"val/ILSVRC2012_val_{number:08d}.JPEG"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_bytes(100 + number))


VAL_LABELS = [WNIDS[2], WNIDS[0], WNIDS[0], WNIDS[1]]
LISTS = {
    "wnids.txt": "\n".join(VAL_LABELS) + "\n",
    "pairs.txt": "\n".join(
        f"ILSVRC2012_val_{n:08d}.JPEG {wnid}" for n, wnid in reversed([*enumerate(VAL_LABELS, 1)])
    ),
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "\n".join(f"ILSVRC2012_val_{n:08d},{w} 85 1 499 272" for n, w in enumerate(VAL_LABELS, 1)),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_flat_val_takes_its_labels_from_a_list(tmp_path: Path, name: str) -> None:
    flat_val(tmp_path / "raw")
    (tmp_path / name).write_text(LISTS[name])
    rows = prepared(tmp_path / "raw", tmp_path / "out", labels=str(tmp_path / name))
    assert list(labels_of(rows, "val").values()) == [2, 0, 0, 1]


def test_a_test_folder_without_labels_is_left_out_and_listed(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"train/a": 3, "train/b": 3, "test": 2})
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert set(manifest.splits) == {"train", "val"}
    assert "2 images without labels" in (tmp_path / "out/quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("n01440764\n", "holds 1 label for 4 images"),
        ("n09999999\n" * 4, "none of the 3 classes"),
        ("490\n361\n171\n822\n", "not the usual class numbers"),
        ("other_1.JPEG n01440764\n" * 4, "has no label for ILSVRC2012_val_00000001"),
    ],
)
def test_a_list_that_does_not_belong_is_told(tmp_path: Path, text: str, cause: str) -> None:
    flat_val(tmp_path / "raw")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=cause):
        prepare(config(tmp_path / "raw", tmp_path / "out", labels=str(tmp_path / "list.txt")))


def test_a_list_of_classes_fixes_the_labels(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {f"train/{WNIDS[2]}": 2, f"train/{WNIDS[0]}": 2})
    lines = [f"{number} {wnid} name of it" for number, wnid in enumerate(WNIDS)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    rows = prepared(tmp_path / "raw", tmp_path / "out", classes=str(tmp_path / "classes.txt"))
    assert {row["label"] for row in rows["train"]} == {0, 2}
    assert read_manifest(str(tmp_path / "out")).classes == WNIDS
    (tmp_path / "raw/train/n00000001").mkdir()
    with pytest.raises(DataError, match="classes that the list of classes has not: n00000001"):
        prepare(config(tmp_path / "raw", tmp_path / "b", classes=str(tmp_path / "classes.txt")))


def test_class_lists(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("great white shark\n\ntench\n")
    assert read_classes(str(path)) == ("great white shark", "tench")
    for text, cause in (("", "names no class"), ("a\nb\na\n", "names 'a' twice")):
        path.write_text(text)
        with pytest.raises(DataError, match=cause):
            read_classes(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        read_classes(str(tmp_path / "missing.txt"))
    path.write_bytes(b"cat\nW\xe4lder\n")
    with pytest.raises(DataError, match=r"line 2: is not UTF-8"):
        read_classes(str(path))


# Official tars


def devkit(path: Path) -> None:
    """Like the real one: its numbers are not those of the sorted ids, and parents come last."""
    numbers = {WNIDS[0]: 3, WNIDS[1]: 1, WNIDS[2]: 2}
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "name", 0) for wnid, number in numbers.items()]
    table = np.array([*rows, (1001, "n00001740", "entity", 3)], dtype=kinds)
    mat = io.BytesIO()
    savemat(mat, {"synsets": table.reshape(-1, 1)})
    truth = "".join(f"{numbers[wnid]}\n" for wnid in VAL_LABELS).encode()
    root = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{root}/meta.mat": mat.getvalue(),
        f"{root}/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    import gzip

    path.write_bytes(gzip.compress(tar(files)))


def official(root: Path) -> dict[str, bytes]:
    """Writes the tars; returns the training images."""
    root.mkdir()
    written = {
        f"{wnid}.tar/{wnid}_{number}.JPEG": image_bytes(10 * place + number)
        for place, wnid in enumerate(WNIDS)
        for number in range(4)
    }
    inner = {
        f"{wnid}.tar": tar(
            {path.split("/")[1]: data for path, data in written.items() if path.startswith(wnid)}
        )
        for wnid in reversed(WNIDS)
    }
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": image_bytes(100 + n) for n in (3, 1, 4, 2)}
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar(val))
    return written


def test_official_tars(tmp_path: Path) -> None:
    written = official(tmp_path / "raw")
    devkit(tmp_path / "raw/ILSVRC2012_devkit_t12.tar.gz")
    assert detect(str(tmp_path / "raw")) == "imagenet-tars"
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert {row["path"]: row["image"] for row in rows["train"]} == written
    assert all(row["path"].startswith(WNIDS[row["label"]]) for row in rows["train"])
    assert [row["label"] for row in rows["val"]] == [2, 0, 0, 1]
    assert [row["image"] for row in rows["val"]] == [image_bytes(100 + n) for n in (1, 2, 3, 4)]


def test_official_tars_take_a_list_for_val_or_hold_out(tmp_path: Path) -> None:
    official(tmp_path / "raw")
    with pytest.raises(DataError, match="no labels for it"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))
    (tmp_path / "wnids.txt").write_text(LISTS["wnids.txt"])
    rows = prepared(tmp_path / "raw", tmp_path / "out", labels=str(tmp_path / "wnids.txt"))
    assert [row["label"] for row in rows["val"]] == [2, 0, 0, 1]
    (tmp_path / "raw/ILSVRC2012_img_val.tar").unlink()
    manifest = prepare(config(tmp_path / "raw", tmp_path / "held"))
    assert manifest.splits["val"].class_counts == (1, 1, 1)


@pytest.mark.parametrize("name", ["fall11_whole.tar", "winter21_whole.tar"])
def test_the_tar_of_imagenet_22k_is_one_of_imagenet(tmp_path: Path, name: str) -> None:
    written = official(tmp_path / "raw")
    (tmp_path / "raw/ILSVRC2012_img_val.tar").unlink()
    (tmp_path / "raw/ILSVRC2012_img_train.tar").rename(tmp_path / "raw" / name)
    assert detect(str(tmp_path / "raw")) == "imagenet-tars"
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert {row["path"] for row in (*rows["train"], *rows["val"])} == set(written)


def test_something_else_is_no_devkit(tmp_path: Path) -> None:
    path = tmp_path / "kit.tar"
    path.write_bytes(tar({"readme.txt": b""}))
    with pytest.raises(DataError, match="development kit"):
        read_labels(str(path), ["a"])


def test_members_of_nested_tars_have_their_places(tmp_path: Path, s3_uri: str) -> None:
    long_name = "folder/" + "n" * 150 + ".jpg"
    inner = tar({"a.jpg": b"first", long_name: b"second" * 200}, form=tarfile.GNU_FORMAT)
    data = tar({"b.jpg": b"third", "inner.tar": inner, "c.cls": b"7"})
    (tmp_path / "x.tar").write_bytes(data)
    open_store(s3_uri).write_bytes("x.tar", data)
    for uri in (str(tmp_path / "x.tar"), f"{s3_uri}/x.tar"):
        found = list(members(*filesystem(uri), read=(".cls",)))
        assert [member.name for member in found] == [
            "b.jpg",
            "inner.tar/a.jpg",
            f"inner.tar/{long_name}",
            "c.cls",
        ]
        read = [data[member.offset : member.offset + member.size] for member in found]
        assert read == [b"third", b"first", b"second" * 200, b"7"]
        assert found[3].content == b"7"


def test_a_compressed_or_cut_tar_is_told(tmp_path: Path) -> None:
    import gzip

    whole = tar({"0.jpg": image_bytes(0), "1.jpg": image_bytes(1)})
    for data in (gzip.compress(whole), whole[:700]):
        path = tmp_path / "train.tar"
        path.write_bytes(data)
        with pytest.raises(DataError, match="plain, whole tar"):
            prepare(config(tmp_path, tmp_path.parent / "out", format="webdataset"))


# webdataset


def shards(root: Path, *, labels: str = "cls") -> None:
    root.mkdir()
    for part, split in enumerate(("train", "train", "val")):
        files: dict[str, bytes] = {}
        for number in range(6):
            key = f"{part:03d}{number:03d}"
            label = number % 3
            files[f"{key}.jpg"] = image_bytes(10 * part + number)
            if labels == "cls":
                files[f"{key}.cls"] = str(label).encode()
            elif labels == "json":
                files[f"{key}.json"] = json.dumps({"label": label}).encode()
            files[f"{key}.pkl"] = b"cos\nsystem\n(S'touch /tmp/owned'\ntR."
        (root / f"imagenet-{split}-{part:06d}.tar").write_bytes(tar(files))


@pytest.mark.parametrize("labels", ["cls", "json"])
def test_webdataset(tmp_path: Path, labels: str) -> None:
    shards(tmp_path / "raw", labels=labels)
    assert detect(str(tmp_path / "raw")) == "webdataset"
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert {split: len(part) for split, part in rows.items()} == {"train": 12, "val": 6}
    for part in rows.values():
        for row in part:
            tar_name, name = row["path"].split("/")
            number = int(name[3:6])
            assert row["label"] == number % 3
            assert row["image"] == image_bytes(10 * int(tar_name.split("-")[2][:-4]) + number)


def test_webdataset_without_labels(tmp_path: Path) -> None:
    shards(tmp_path / "raw", labels="none")
    with pytest.raises(DataError, match=r"12 of 12 images have no .cls"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out", unlabelled=True))
    assert manifest.kind == "unlabelled"


def test_webdataset_refuses_names_that_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    files = {f"{n}.{end}": data for n in range(4) for end, data in pair(n)}
    files |= {"../../evil.jpg": image_bytes(9), "/etc/evil.jpg": image_bytes(9), "9.cls": b"1"}
    (tmp_path / "raw/a.tar").write_bytes(tar(files))
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert sum(map(len, rows.values())) == 4
    with (tmp_path / "out/quarantine.csv").open() as stream:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(stream)}
    assert "leads outside" in listed["a.tar/../../evil.jpg"]
    assert "leads outside" in listed["a.tar//etc/evil.jpg"]
    assert "no image" in listed["a.tar/9.cls"]


def pair(number: int) -> list[tuple[str, bytes]]:
    return [("jpg", image_bytes(number)), ("cls", str(number % 2).encode())]


def test_webdataset_on_s3(tmp_path: Path, s3_uri: str) -> None:
    shards(tmp_path / "raw")
    store = open_store(f"{s3_uri}/raw")
    for path in (tmp_path / "raw").iterdir():
        store.write_bytes(path.name, path.read_bytes())
    remote = prepared(f"{s3_uri}/raw", tmp_path / "remote")
    local = prepared(tmp_path / "raw", tmp_path / "local")
    assert remote == local


# Folders told apart


def test_images_beside_masks_are_not_two_classes(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"images/training": 2, "annotations/training": 2})
    with pytest.raises(DataError, match="no annotations of a known layout"):
        detect(str(tmp_path / "raw"))


def test_detection_of_folders(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"train/a": 1, "train/b": 1})
    assert detect(str(tmp_path / "raw")) == "folders"


def test_official_tars_without_one_to_train_on_are_told(tmp_path: Path) -> None:
    official(tmp_path / "raw")
    (tmp_path / "raw/ILSVRC2012_img_train.tar").unlink()
    with pytest.raises(DataError, match=r"holds none of ILSVRC2012_img_train\.tar"):
        prepare(config(tmp_path / "raw", tmp_path / "out", format="imagenet-tars"))
