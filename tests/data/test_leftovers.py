"""What programs leave behind is left out everywhere, and counted in one line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from itpn_ray.data.loading.image_folder import list_images
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.sources.leftovers import is_leftover
from itpn_ray.data.sources.walk import children, files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem
from tests.data.made_files import config, image_bytes, prepared, write_folders

FOLDERS = (
    *(".ipynb_checkpoints", "__MACOSX", ".thumbnails", "@eaDir", "$RECYCLE.BIN", "lost+found"),
    *(".Trash-1000", "System Volume Information", ".git", "#recycle"),
)
FILES = (".DS_Store", "._000.jpg", "Thumbs.db", "desktop.ini", ".hidden.jpg", "Icon\r", "THUMBS.DB")


def leave_behind(folder: Path) -> int:
    """Write leftovers with images in them; how many files and folders."""
    write_folders(folder, dict.fromkeys(FOLDERS, 1), first=500)
    for name in FILES:
        (folder / name).write_bytes(image_bytes(600))
    return len(FOLDERS) + len(FILES)


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_leftovers_are_known_by_name(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize("name", ["cat", "thumbs", "recycle", ".", "..", "lost", "_x.jpg", "1.jpg"])
def test_other_names_are_not(name: str) -> None:
    assert not is_leftover(name)


@pytest.mark.parametrize("layout", [("train/cat", "train/dog", "val/cat", "val/dog"), ("a", "b")])
def test_folders_without_leftovers(tmp_path: Path, layout: tuple[str, ...]) -> None:
    raw = tmp_path / "raw"
    written = write_folders(raw, dict.fromkeys(layout, 3))
    places = {raw, *(raw / folder for folder in layout), *((raw / f).parent for f in layout)}
    count = sum(leave_behind(place) for place in places)
    (tmp_path / "out/lost+found").mkdir(parents=True)  # a new disk is as good as an empty folder
    said: list[str] = []
    manifest = prepare(config(raw, tmp_path / "out"), say=said.append)
    assert len(manifest.classes) == 2
    assert sum(split.count for split in manifest.splits.values()) == len(written)
    assert said[-1].startswith(f"left out: {count} files and folders that programs leave behind")
    lines = (tmp_path / "out/quarantine.csv").read_text().splitlines()
    assert (len(lines), manifest.quarantined) == (2, 1)
    assert f"{count} files and folders" in lines[1]


def test_a_heap_without_leftovers(tmp_path: Path) -> None:
    written = write_folders(tmp_path / "raw", {"": 5, "more": 2})
    leave_behind(tmp_path / "raw")
    rows = prepared(tmp_path / "raw", tmp_path / "out", unlabelled=True)
    assert {row["path"] for part in rows.values() for row in part} == set(written)


def test_prediction_leaves_them_out(tmp_path: Path) -> None:
    written = write_folders(tmp_path, {"": 2, "more": 2})
    count = leave_behind(tmp_path) + leave_behind(tmp_path / "more")
    said: list[str] = []
    found, _ = list_images(str(tmp_path), said.append)
    assert found.column("path").to_pylist() == sorted(written)
    assert len(said) == 1
    assert f"{count} files and folders" in said[0]


def test_nothing_but_leftovers_is_empty(tmp_path: Path) -> None:
    leave_behind(tmp_path)
    with pytest.raises(DataError, match="is empty"):
        detect(str(tmp_path))
    with pytest.raises(DataError, match="holds no images"):
        list_images(str(tmp_path))


def test_a_hidden_folder_above_the_source_does_not_matter(tmp_path: Path) -> None:
    write_folders(tmp_path / ".cache/raw", {"a": 2, "b": 2})
    manifest = prepare(config(tmp_path / ".cache/raw", tmp_path / "out"))
    assert sum(split.count for split in manifest.splits.values()) == 4


def test_shards_and_their_members(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    with tarfile.open(raw / "train-0.tar", "w") as packed:
        for name in ("0.jpg", "._0.jpg", "1.jpg", "__MACOSX/._1.jpg", ".DS_Store"):
            info = tarfile.TarInfo(name)
            info.size = len(data := image_bytes(ord(name[-5])))
            packed.addfile(info, io.BytesIO(data))
    (raw / "._train-0.tar").write_bytes(b"fork")
    rows = prepared(raw, tmp_path / "out", unlabelled=True)
    assert sum(map(len, rows.values())) == 2
    assert "4 files and folders" in (tmp_path / "out/quarantine.csv").read_text()


def test_listings_of_s3_mark_them(s3_uri: str) -> None:
    fs, root = filesystem(s3_uri)
    for key in ("cat/0.jpg", "cat/.ipynb_checkpoints/0.jpg", "cat/._0.jpg", "@eaDir/0.jpg"):
        with fs.open_output_stream(f"{root}/{key}") as stream:
            stream.write(b"x")
    assert [entry.name for entry in children(fs, root) if not entry.problem] == ["cat"]
    assert [entry.path for entry in files_below(fs, root) if not entry.problem] == [
        f"{root}/cat/0.jpg"
    ]


def test_documents_without_a_suffix_are_no_images(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(raw, {"a": 2, "b": 2})
    for name in ("LICENSE", "README", "a/SHA256SUMS", "000"):
        (raw / name).write_text("words")
    (raw / "b/hash1234").write_bytes(image_bytes(9))  # an image without a suffix
    manifest = prepare(config(raw, tmp_path / "out"))
    assert sum(split.count for split in manifest.splits.values()) == 5
    text = (tmp_path / "out/quarantine.csv").read_text()
    assert "000,left out: lies beside the class folders" in text
    assert "a/SHA256SUMS,not taken for an image" in text
