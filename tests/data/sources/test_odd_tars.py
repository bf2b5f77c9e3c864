"""Tars with names, members and labels of unexpected kinds, and damaged ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.cli import run
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.errors import DataError
from tests.data.made_files import config, image_bytes, prepared
from tests.data.sources.test_odd_parquet import quarantine
from tests.data.sources.test_sources import tar


def sample(name: str, number: int, label: str | None = "cls") -> dict[str, bytes]:
    files = {f"{name}.jpg": image_bytes(number)}
    if label == "cls":
        files[f"{name}.cls"] = str(number % 2).encode()
    elif label == "json":
        files[f"{name}.json"] = json.dumps({"label": number % 2}).encode()
    return files


def pack(root: Path, files: dict[str, bytes], name: str = "train.tar") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(tar(files))
    return root


def found(source: Path, out: Path, **fields: Any) -> dict[str, int]:
    """Name in the tar -> the label it was given."""
    rows = prepared(source, out, **fields)
    return {
        row["path"].removeprefix("train.tar/"): row["label"]
        for part in rows.values()
        for row in part
    }


@pytest.mark.parametrize("label", ["cls", "json"])
@pytest.mark.parametrize("name", ["a.{}", "scale_0.{}", "v1.2/img.{}.left", "b{}.x.y", "{}"])
def test_names_with_dots_lose_no_image(tmp_path: Path, name: str, label: str) -> None:
    files: dict[str, bytes] = {}
    for number in range(12):
        files |= sample(name.format(number), number, label)
    rows = found(pack(tmp_path / "raw", files), tmp_path / "out")
    assert rows == {f"{name.format(n)}.jpg": n % 2 for n in range(12)}
    assert not quarantine(tmp_path / "out")


def test_samples_by_convention_keep_their_files_together(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(6):
        key = f"dir.1/{number}"
        files[f"{key}.depth.png"] = image_bytes(50 + number)
        files[f"{key}.jpg"] = image_bytes(number)
        files[f"{key}.meta.json"] = json.dumps({"label": 1 - number % 2}).encode()
        files[f"{key}.cls"] = str(number % 2).encode()
    out = tmp_path / "out"
    assert found(pack(tmp_path / "raw", files), out) == {f"dir.1/{n}.jpg": n % 2 for n in range(6)}
    told = quarantine(out)
    assert set(told) == {f"train.tar/dir.1/{n}.depth.png" for n in range(6)}
    assert "dir.1/0.jpg is the image of the sample dir.1/0" in told["train.tar/dir.1/0.depth.png"]


def test_two_images_that_share_one_label_are_told(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(6):
        files |= {f"{number}.left.jpg": image_bytes(number), f"{number}.right.jpg": image_bytes(9)}
        files[f"{number}.cls"] = str(number % 2).encode()
    raw = pack(tmp_path / "raw", files)
    assert found(raw, tmp_path / "out") == {f"{n}.left.jpg": n % 2 for n in range(6)}
    assert set(quarantine(tmp_path / "out")) == {f"train.tar/{n}.right.jpg" for n in range(6)}


def test_a_label_goes_to_the_image_of_its_name(tmp_path: Path) -> None:
    files = {"a.0.jpg": image_bytes(0), "a.1.jpg": image_bytes(1), "a.1.cls": b"1"}
    with pytest.raises(DataError, match=r"1 of 2 images have no \.cls"):
        prepare(config(pack(tmp_path / "raw", files), tmp_path / "out"))


def test_images_without_labels_are_all_taken(tmp_path: Path) -> None:
    files = {f"{n // 3}.{n % 3}.jpg": image_bytes(n) for n in range(9)}
    raw = pack(tmp_path / "raw", files)
    assert set(found(raw, tmp_path / "out", unlabelled=True)) == set(files)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_no_utf8_are_kept_apart(tmp_path: Path, form: int) -> None:
    files: dict[str, bytes] = {}
    for number in range(4):
        files |= sample(f"caf{chr(0xDCE0 + number)}", number)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train.tar").write_bytes(tar(files, form=form))
    rows = found(tmp_path / "raw", tmp_path / "out")
    assert rows == {f"caf\\xe{n:x}.jpg": n % 2 for n in range(4)}


def test_links_and_other_files_are_listed(tmp_path: Path) -> None:
    raw = pack(tmp_path / "raw", sample("0", 0) | sample("1", 1) | sample("2", 2) | sample("3", 3))
    with tarfile.open(raw / "train.tar", "a") as packed:
        for name, kind in (("4.jpg", tarfile.LNKTYPE), ("5.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.jpg"
            packed.addfile(info)
    (raw / "train-1.tar.gz").write_bytes(b"")
    assert len(found(raw, tmp_path / "out")) == 4
    told = quarantine(tmp_path / "out")
    assert set(told) == {"train.tar/4.jpg", "train.tar/5.jpg", "train-1.tar.gz"}
    assert "link" in told["train.tar/4.jpg"]


BAD_LABELS: dict[str, tuple[dict[str, bytes], str]] = {
    "broken JSON": ({"0.json": b'{"label": 1'}, "is no JSON"),
    "JSON of another kind": ({"0.json": b"[1, 2]"}, "no JSON object"),
    "a number as JSON": ({"0.json": b"1"}, "no JSON object"),
    "deep JSON": ({"0.json": b"[" * 100_000}, "is no JSON"),
    "UTF-16": ({"0.json": "{}".encode("utf-16")[:-1]}, "is no JSON"),
    "a list as label": ({"0.json": b'{"label": [1]}'}, "neither a class number"),
    "half a class": ({"0.json": b'{"label": 0.5}'}, "neither a class number"),
    "infinity": ({"0.json": b'{"label": Infinity}'}, "neither a class number"),
    "pickle as class": ({"0.cls": b"\x80\x04K\x01."}, "is no text"),
    "null": ({"0.json": b'{"label": null}'}, "no .cls or .json label"),
    "no label": ({"0.json": b'{"caption": "a"}'}, "no .cls or .json label"),
    "empty": ({"0.cls": b""}, "no .cls or .json label"),
    "pickle": ({"0.pkl": b"cos\nsystem\n(S'touch owned'\ntR."}, "no .cls or .json label"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_a_bad_label_is_told_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files, told = BAD_LABELS[name]
    raw = pack(tmp_path / "raw", {"0.jpg": image_bytes(0), **files} | sample("1", 1))
    out = str(tmp_path / "out")
    assert run(["prepare", "--source", str(raw), "--out", out, "--num-workers", "0"]) == 2
    line = capsys.readouterr().err.strip()
    assert told in line
    assert "\n" not in line
    if "no .cls" not in told:
        assert f"train.tar/{next(iter(files))}" in line
    assert prepare(config(raw, out, unlabelled=True)).kind == "unlabelled"


def damaged(data: bytes) -> dict[str, bytes]:
    second = data.find(b"1.jpg")
    return {
        "a header in the middle": data[: second + 140] + b"9999" + data[second + 144 :],
        "joined": data + data,
        "cut": data[: second + 700],
        "empty": b"",
    }


@pytest.mark.parametrize("name", damaged(b"1.jpg"))
def test_a_damaged_tar_does_not_end_early_in_silence(
    tmp_path: Path, name: str, remote: Callable[[Path], str]
) -> None:
    data = tar(sample("0", 0) | sample("1", 1) | sample("2", 2) | sample("3", 3))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train.tar").write_bytes(damaged(data)[name])
    for uri in (str(tmp_path / "raw"), remote(tmp_path / "raw")):
        with pytest.raises(DataError, match="not a plain, whole tar") as caught:
            prepare(config(uri, tmp_path / "out", format="webdataset"))
        assert "train.tar" in str(caught.value)


@pytest.fixture
def remote(s3_uri: str) -> Callable[[Path], str]:
    from itpn_ray.storage import open_store

    def put(folder: Path) -> str:
        store = open_store(f"{s3_uri}/{folder.name}")
        for path in folder.iterdir():
            store.write_bytes(path.name, path.read_bytes())
        return store.uri

    return put


def test_a_negative_size_ends(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as packed:
        info = tarfile.TarInfo("0.jpg")
        info.pax_headers = {"size": "-2048"}
        packed.addfile(info)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train.tar").write_bytes(out.getvalue())
    with pytest.raises(DataError, match="negative size"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))
