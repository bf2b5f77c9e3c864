"""Tiles: where they lie, which objects they show, and that they are made alike each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itpn_ray.data.annotations.tiles import TileReader
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.tiling import tile_places
from itpn_ray.data.store.manifest import MANIFEST, WORK, read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError
from tests.data.made import make_image
from tests.data.made_dota import HEAD, SHIP, prepared, write_dota


@pytest.mark.parametrize(
    ("size", "side", "gap", "columns", "rows"),
    [
        ((1024, 1024), 1024, 200, [0], [0]),
        ((1025, 1024), 1024, 200, [0, 1], [0]),
        ((1848, 900), 1024, 200, [0, 824], [0]),
        ((4000, 2000), 1024, 200, [0, 824, 1648, 2472, 2976], [0, 824, 976]),
        ((300, 500), 1024, 200, [0], [0]),
        ((300, 500), 0, 200, [0], [0]),
        ((200, 500), 0, 200, [0], [0]),
    ],
)
def test_places(
    size: tuple[int, int], side: int, gap: int, columns: list[int], rows: list[int]
) -> None:
    assert tile_places(*size, side, gap) == [(x, y) for y in rows for x in columns]


@pytest.mark.parametrize(("width", "height", "gap"), [(2900, 1300, 200), (1300, 1024, 0)])
def test_tiles_cover_the_image(width: int, height: int, gap: int) -> None:
    covered = np.zeros((height, width), dtype=bool)
    for x, y in tile_places(width, height, 1024, gap):
        assert x + 1024 <= width or x == 0
        covered[y : y + 1024, x : x + 1024] = True
    assert covered.all()


def bar(left: int, difficult: int = 0) -> str:
    """An upright box of 20 x 10 pixels."""
    right = left + 20
    return f"{left} 10 {right} 10 {right} 20 {left} 20 bar {difficult}"


def tiles_of(folder: Path, lines: list[str]) -> dict[tuple[int, int], list[tuple[int, bool, bool]]]:
    """Origin of each tile of an image of 180 x 100 -> (place in the file, left out, difficult)."""
    labels = {"train/P0": [SHIP], "val/P1": lines}
    root = write_dota(folder / "raw", labels, (180, 100))
    data = prepared(root, folder / "data", tile=100, tile_gap=20)
    reader = TileReader(open_dataset(data, "val"))
    tiles = [reader[row] for row in range(len(reader.dataset))]
    return {
        tile.origin: list(
            zip(tile.ids.tolist(), tile.crowds.tolist(), tile.difficult.tolist(), strict=True)
        )
        for tile in tiles
    }


def test_an_object_is_learned_from_where_seven_tenths_are_shown(tmp_path: Path) -> None:
    """Tiles begin at 0 and 80. Of the bars 100, 70, 65 and 0 % lie in the first."""
    found = tiles_of(tmp_path, [bar(75), bar(86), bar(87), bar(100), bar(10, difficult=1)])
    assert found == {
        (0, 0): [(1, False, False), (2, False, False), (3, True, False), (5, True, True)],
        (80, 0): [(1, False, False), (2, False, False), (3, False, False), (4, False, False)],
    }


@pytest.mark.parametrize("tile", [0, 100])
def test_what_lies_outside_a_small_image_is_not_shown(tmp_path: Path, tile: int) -> None:
    """Of bars at the right edge of an image of 90 x 80 pixels 75 and 65 % lie within."""
    labels = {"train/P0": [SHIP], "val/P1": [bar(75), bar(77), bar(10)]}
    root = write_dota(tmp_path / "raw", labels, (90, 80))
    data = prepared(root, tmp_path / "data", tile=tile, tile_gap=20)
    (tile_of_image,) = [TileReader(open_dataset(data, "val"))[0]]
    assert tile_of_image.ids.tolist() == [1, 2, 3]
    assert tile_of_image.crowds.tolist() == [False, True, False]


def test_a_tile_has_its_part_of_the_image_and_boxes_in_its_own_pixels(tmp_path: Path) -> None:
    labels = {"train/P0": [SHIP], "val/P1": [bar(86)]}
    root = write_dota(tmp_path / "raw", labels, (180, 100))
    data = prepared(root, tmp_path / "data", tile=100, tile_gap=20)
    reader = TileReader(open_dataset(data, "val"))
    whole = np.asarray(Image.open(root / "val/images/P1.png").convert("RGB")).astype(int)
    for row, left in enumerate((0, 80)):
        tile = reader[row]
        assert (tile.origin, tile.path, tile.size) == ((left, 0), "val/images/P1.png", (100, 100))
        corners = [[86 - left, 10], [106 - left, 10], [106 - left, 20], [86 - left, 20]]
        assert tile.corners.tolist() == [corners]
        assert tile.boxes.tolist() == [[*corners[0], *corners[2]]]
        pixels = reader.image(row).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(pixels - whole[:, left : left + 100]).mean() < 4  # JPEG


def test_a_jpeg_that_is_one_tile_keeps_its_bytes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for part in ("images", "labelTxt"):
            (tmp_path / "raw" / split / part).mkdir(parents=True)
        make_image(len(split), 90, 80).save(tmp_path / "raw" / split / "images/a.jpg")
        (tmp_path / "raw" / split / "labelTxt/a.txt").write_text("\n".join([*HEAD, SHIP]))
    data = prepared(tmp_path / "raw", tmp_path / "data")
    stored = open_dataset(data, "val")[0]["image"]
    assert stored == (tmp_path / "raw/val/images/a.jpg").read_bytes()


def test_the_same_tiles_are_made_again_and_what_is_there_is_kept(tmp_path: Path) -> None:
    labels = {f"train/P{n}": [SHIP, bar(86 + n)] for n in range(4)} | {"val/P9": [bar(40)]}
    root = write_dota(tmp_path / "raw", labels, (180, 100))
    settings = {"tile": 100, "tile_gap": 20, "shard_rows": 2}
    first = prepared(root, tmp_path / "first", **settings)
    manifest = read_manifest(first)
    assert [shard.rows for shard in manifest.splits["train"].shards] == [4, 4]
    second = prepared(root, tmp_path / "second", **settings)
    assert read_manifest(second).splits == manifest.splits

    # As a preparation that was stopped before its manifest and one of its shards.
    stopped = tmp_path / "second"
    (stopped / MANIFEST).unlink()
    kept = stopped / "train" / manifest.splits["train"].shards[0].file
    (stopped / "train" / manifest.splits["train"].shards[1].file).unlink()
    before = kept.stat().st_mtime_ns
    assert not (stopped / WORK).exists()
    assert read_manifest(prepared(root, stopped, **settings)).splits == manifest.splits
    assert kept.stat().st_mtime_ns >= before
    saved = json.loads((tmp_path / "first" / MANIFEST).read_text())["settings"]
    assert (saved["tile"], saved["tile_gap"]) == (100, 20)
    with pytest.raises(ConfigError, match="holds another preparation"):
        prepared(root, tmp_path / "first", **{**settings, "tile": 90})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"tile": 32}, "prepare.tile = 32"), ({"tile": 100, "tile_gap": 100}, "prepare.tile_gap")],
)
def test_tiles_that_cannot_be(settings: dict[str, int], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        PrepareConfig(source="raw", out="out", **settings)  # type: ignore[arg-type]
