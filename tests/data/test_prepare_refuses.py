from __future__ import annotations

from pathlib import Path

import pytest

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.errors import ConfigError, DataError
from tests.data.made_files import FOLDERS, config, image_bytes, write_folders


def bad_source(tmp_path: Path, name: str) -> tuple[Path, str]:
    raw = tmp_path / "raw"
    if name == "missing":
        return raw, "does not exist"
    raw.mkdir()
    if name == "empty":
        return raw, "is empty"
    if name == "no images":
        (raw / "notes.txt").write_text("")
        return raw, "holds no images"
    if name == "empty classes":
        (raw / "train/cat").mkdir(parents=True)
        (raw / "train/dog").mkdir(parents=True)
        return raw, "holds no images"
    if name == "one class":
        write_folders(raw, {"train/cat": 3})
        return raw, "one class"
    if name == "images beside classes":
        write_folders(raw, {"cat": 2, "dog": 2, "": 1})
        return raw, "images beside them"
    if name == "val has another class":
        write_folders(raw, {"train/cat": 2, "train/dog": 2, "val/emu": 1})
        return raw, "val has classes that train has not: emu"
    if name == "val without labels":
        write_folders(raw, {"train/cat": 2, "train/dog": 2, "val": 1})
        return raw, "lies in no class folder"
    if name == "one image":
        write_folders(raw, {"": 1})
        return raw, "only image"
    if name == "all broken":
        for path in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"):
            (raw / path).parent.mkdir(exist_ok=True)
            (raw / path).write_bytes(b"")
        return raw, "no usable image"
    path = raw / "file.jpg"
    path.write_bytes(image_bytes(0))
    return path, "is not a folder"


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "empty",
        "no images",
        "empty classes",
        "one class",
        "images beside classes",
        "val has another class",
        "val without labels",
        "one image",
        "all broken",
        "a file",
    ],
)
def test_a_bad_source_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    source, cause = bad_source(tmp_path, name)
    with pytest.raises(DataError, match=cause) as caught:
        prepare(config(source, tmp_path / "out", max_broken=1.0))
    assert "\n" not in str(caught.value)
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


@pytest.mark.parametrize(
    "field",
    [
        {"format": "tfrecord"},
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
