from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from itpn_ray.data.annotations import run_lengths
from itpn_ray.data.annotations.geometry import follow
from itpn_ray.data.prepare.config import SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.errors import DataError
from tests.data.made_coco import item, write_coco
from tests.data.made_files import config, image_bytes, prepared

Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes in COCO's form."""
    out = tmp_path_factory.mktemp("coco") / "images"
    images = SynthesizeConfig(
        out=str(out), layout="coco", train=40, val=12, side=128, num_workers=0
    )
    return generate(images)


def annotations_of(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"annotations/instances_{split}2017.json").read_text())


def mask_of(item: dict[str, Any], height: int, width: int) -> Mask:
    """COCO's own decoding of an annotation."""
    shape = item["segmentation"]
    runs = coco_mask.frPyObjects(shape, height, width)
    return coco_mask.decode(coco_mask.merge(runs) if isinstance(runs, list) else runs).astype(bool)


def stored_mask(row: dict[str, Any], number: int) -> Mask:
    size = row["height"], row["width"]
    if row["runs"][number]:
        return run_lengths.decode(row["runs"][number], *size)
    runs = coco_mask.frPyObjects(row["polygons"][number], *size)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def overlap(first: Mask, second: Mask) -> float:
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def test_objects_arrive_as_they_were_annotated(drawn: Path, tmp_path: Path) -> None:
    assert detect(str(drawn)) == "coco"
    rows = prepared(drawn, tmp_path / "out")
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest.kind == "detection"
    for split, part in rows.items():
        found = annotations_of(drawn, split)
        assert sum(manifest.splits[split].class_counts) == len(found["annotations"])
        by_id = {item["id"]: item for item in found["annotations"]}
        seen = set()
        for row in part:
            image = next(image for image in found["images"] if image["id"] == row["image_id"])
            assert row["path"] == f"{split}2017/{image['file_name']}"
            for number, object_id in enumerate(row["object_ids"]):
                item = by_id[object_id]
                seen.add(object_id)
                assert item["image_id"] == row["image_id"]
                assert manifest.class_ids[row["classes"][number]] == item["category_id"]
                x, y, width, height = item["bbox"]
                assert row["boxes"][number] == [x, y, x + width, y + height]
                assert row["areas"][number] == item["area"]
                assert row["crowds"][number] == bool(item["iscrowd"])
                if not item["iscrowd"]:
                    assert row["polygons"][number] == item["segmentation"]
                size = row["height"], row["width"]
                np.testing.assert_array_equal(stored_mask(row, number), mask_of(item, *size))
        assert seen == set(by_id)


def test_objects_follow_an_image_that_shrinks(drawn: Path, tmp_path: Path) -> None:
    rows = prepared(drawn, tmp_path / "out", max_side=100)
    full = {
        row["path"]: row for part in prepared(drawn, tmp_path / "full").values() for row in part
    }
    shrunk = 0
    for part in rows.values():
        for row in part:
            before = full[row["path"]]
            scale = np.array([row["width"] / before["width"], row["height"] / before["height"]])
            shrunk += int(scale[0] < 1)
            assert max(row["width"], row["height"]) <= 100
            for number, box in enumerate(row["boxes"]):
                back = np.array(box) / np.tile(scale, 2)
                np.testing.assert_allclose(back, before["boxes"][number], atol=1e-9)
                wanted = before["areas"][number] * scale.prod()
                assert row["areas"][number] == pytest.approx(wanted)
                large = Image.fromarray(stored_mask(row, number)).resize(
                    (before["width"], before["height"]), Image.Resampling.NEAREST
                )
                if before["areas"][number] > 400:
                    assert overlap(np.asarray(large), stored_mask(before, number)) > 0.75
    assert shrunk > 20


POLYGON = [[5.0, 4.0, 30.0, 6.0, 22.0, 25.0]]


def row_for(width: int, height: int) -> dict[str, Any]:
    """A triangle as a polygon, and the same as run lengths."""
    mask = Image.new("1", (width, height))
    ImageDraw.Draw(mask).polygon([(5, 4), (30, 6), (22, 25)], fill=1)
    return {
        "frame_width": width,
        "frame_height": height,
        "boxes": [[5.0, 4.0, 30.0, 25.0]] * 2,
        "areas": [200.0] * 2,
        "polygons": [POLYGON, []],
        "runs": [[], run_lengths.encode(np.asarray(mask))],
    }


def turned_image(orientation: int, width: int, height: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("max_side", [None, 24])
def test_objects_follow_an_image_that_turns(orientation: int, max_side: int | None) -> None:
    rules = ImageRules(max_side=max_side, quality=90, max_pixels=2**20)
    image = reencode(turned_image(orientation, 48, 32), rules)
    row = row_for(48, 32)
    if orientation in (2, 3, 4):  # the size does not tell: the annotations mean the upright image
        moved = follow(row, image)
        assert moved["boxes"][0] == [v * image.width / 48 for v in row["boxes"][0]]
        return
    moved = follow(row, image)
    size = image.height, image.width
    outline = coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects(moved["polygons"][0], *size))
    ).astype(bool)
    runs = run_lengths.decode(moved["runs"][1], *size)
    assert overlap(outline, runs) > 0.7  # both ways lead to the same place
    rows, columns = np.nonzero(runs)
    around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(moved["boxes"][1], around, atol=1.6)
    # The pixels went the same way: the mask as an image, stored and turned upright.
    stored = np.asarray(run_lengths.decode(row["runs"][1], 32, 48)).astype(np.uint8) * 255
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(out, "JPEG", exif=exif, quality=95)
    upright = reencode(out.getvalue(), rules)
    shown = np.asarray(Image.open(io.BytesIO(upright.data)).convert("L")) > 127
    assert overlap(shown, runs) > 0.7


def test_annotations_of_the_upright_size_are_not_turned() -> None:
    rules = ImageRules(max_side=None, quality=90, max_pixels=2**20)
    image = reencode(turned_image(6, 32, 48), rules)  # shown as 48 x 32
    assert follow(row_for(48, 32), image) == row_for(48, 32)


def test_annotations_of_another_size_are_rejected() -> None:
    rules = ImageRules(max_side=None, quality=90, max_pixels=2**20)
    image = reencode(turned_image(1, 50, 32), rules)
    with pytest.raises(RejectedError, match="annotated as 48 x 32 pixels, but has 50 x 32"):
        follow(row_for(48, 32), image)


def test_objects_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    bad = {
        1: {"bbox": [1, 2, 0, 4]},
        2: {"bbox": [1, 2, float("nan"), 4]},
        3: {"image_id": 99},
        4: {"category_id": 5},
        5: {"bbox": [1, 2, 3]},
        6: {"bbox": [], "segmentation": None},
        7: {"image_id": "ten"},
    }
    items = [item(number, **fields) for number, fields in bad.items()] + [item(8)]
    rows = prepared(write_coco(tmp_path / "raw", items), tmp_path / "out", max_broken=1.0)
    assert [row["object_ids"] for row in rows["val"]] == [[8], [], [], []]
    listed = (tmp_path / "out/quarantine.csv").read_text().splitlines()[1:]
    assert len(listed) == 2 * len(bad)
    text = "\n".join(listed)
    for number in bad:
        assert f"annotation {number}," in text
    assert "is of image 99, which is not listed" in text
    assert "is of category 5, which is not listed" in text
    assert "has a box without area: 0 x 4 pixels" in text


def test_optional_fields_may_be_missing(tmp_path: Path) -> None:
    lean = {key: value for key, value in item(1).items() if key in ("id", "image_id", "bbox")}
    rows = prepared(write_coco(tmp_path / "raw", [{**lean, "category_id": 3}]), tmp_path / "out")
    row = rows["val"][0]
    assert (row["areas"], row["crowds"], row["polygons"], row["runs"]) == (
        [12.0],
        [False],
        [[]],
        [[]],
    )


def test_class_names_lose_stray_blanks_only(tmp_path: Path) -> None:
    prepare(config(write_coco(tmp_path / "raw", [item(1)]), tmp_path / "out"))
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest.classes == ("Moniter/TV", "Wild Bird")
    assert manifest.class_ids == (3, 7)


def test_objects_of_a_held_out_image_go_with_it(tmp_path: Path) -> None:
    items = [item(n, image_id=10 + n % 10) for n in range(40)]
    raw = write_coco(tmp_path / "raw", items, images=10)
    (raw / "annotations/instances_val2017.json").unlink()
    rows = prepared(raw, tmp_path / "out", holdout=0.3)
    assert {split: len(part) for split, part in rows.items()} == {"train": 7, "val": 3}
    for part in rows.values():
        for row in part:
            assert row["object_ids"] == [n for n in range(40) if 10 + n % 10 == row["image_id"]]
    assert (tmp_path / "out/quarantine.csv").read_text() == "path,reason\n"


def test_objects365_paths(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    images = []
    for number, folder in enumerate(("v1/patch0", "v1/patch8", "v2/patch16", "v2/patch16")):
        name = f"objects365_{folder[:2]}_{number:08d}.jpg"
        path = root / "val" / folder.split("/")[1] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
        entry = {"id": 10 + number, "file_name": f"images/{folder}/{name}"}
        images.append({**entry, "width": 40, "height": 32, "license": 5, "url": ""})
    content = {
        "images": images,
        "annotations": [item(1, isfake=0, isreflected=0, segmentation=None)],
        "categories": [{"id": 7, "name": "Bakset"}],
        "licenses": {},
    }
    (root / "annotations").mkdir()
    (root / "annotations/zhiyuan_objv2_val.json").write_text(json.dumps(content))
    assert detect(str(root)) == "objects365"
    rows = prepared(root, tmp_path / "out")
    assert [row["path"] for row in rows["val"]] == [
        f"val/{image['file_name'].split('/', 2)[2]}" for image in images
    ]
    assert [row["image"] for row in rows["val"]] == [image_bytes(n) for n in range(4)]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("no images there", "is in none of the usual folders"),
        ("no split", "several annotation files, none of which names its split"),
        ("not JSON", "cannot be read"),
        ("cut off", "cannot be read"),
        ("no categories", "lists no categories"),
        ("no images", "lists no images"),
        ("category twice", "category 7: is dog and Wild Bird"),
        ("other categories", "other categories than train"),
    ],
)
def test_a_bad_data_set_is_told(tmp_path: Path, change: str, cause: str) -> None:
    raw = write_coco(tmp_path / "raw", [item(1)])
    path = raw / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    if change == "no images there":
        content["images"] = [{**image, "file_name": "x.jpg"} for image in content["images"]]
    elif change == "no categories":
        content["categories"] = []
    elif change == "no images":
        content["images"] = []
    elif change == "category twice":
        content["categories"].append({"id": 7, "name": "dog"})
    elif change == "other categories":
        content["categories"][0]["name"] = "dog"
    text = json.dumps(content)
    if change == "cut off":
        text = text[: len(text) // 2]
    path.write_text("<html>" if change == "not JSON" else text)
    if change == "no split":
        path.rename(raw / "annotations/all.json")
        (raw / "annotations/instances_val2017.json").rename(raw / "annotations/more.json")
    with pytest.raises(DataError, match=cause):
        prepare(config(raw, tmp_path / "out"))


def test_memory_does_not_grow_with_the_objects() -> None:
    code = """
import json, resource, tempfile
from pathlib import Path
import numpy as np
import pyarrow as pa
from itpn_ray.data.sources.annotated.objects import CocoObjects
ids = np.arange(500)
def peak(boxes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "boxes.json")
        with path.open("w") as out:
            out.write('{"annotations": [')
            for n in range(boxes):
                box = {"id": n, "image_id": n % 500, "category_id": 1, "bbox": [1, 1, 5, 5]}
                out.write((", " if n else "") + json.dumps(box))
            out.write("]}")
        frames = np.full((500, 2), 9, np.int32)
        objects = CocoObjects(
            uri=str(path), labels={1: 0}, image_ids=ids, frames=frames
        )
        pieces = objects.join(pa.table({"image_id": ids}), list(range(0, 501, 5)), Path(folder))
        seen = 0
        for piece, problems in pieces:
            assert not problems
            seen += sum(len(found) for found in piece.column("object_ids").to_pylist())
        assert seen == boxes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(-peak(35_000) + peak(140_000))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) < 20_000  # kB; the boxes as Python values would take 75 MB more
