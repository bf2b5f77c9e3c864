"""Turned boxes in XML: DIOR-R's corners and HRSC2016's centres, sides and angles."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.annotated.turned_xml import holds_turned, parse_turned
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.store.manifest import read_manifest
from tests.data.made import make_image
from tests.data.made_dota import HEIGHT, WIDTH, prepared
from tests.data.made_layouts import voc

PLACES = ("left_top", "right_top", "right_bottom", "left_bottom")


def dior(corners: str = "20 30 60 40 58 48 18 38", difficult: int = 0) -> str:
    values = iter(corners.split())
    box = "".join(f"<{a}_{at}>{next(values)}</{a}_{at}>" for at in PLACES for a in "xy")
    return (
        "<annotation><size><width>200</width></size><object><name>ship</name>"
        f"<difficult>{difficult}</difficult><robndbox>{box}</robndbox></object></annotation>"
    )


def hrsc(angle: float = 0.5, width: str = "40") -> str:
    box = {"cx": "100", "cy": "70", "w": width, "h": "10", "ang": str(angle)}
    fields = "".join(f"<mbox_{name}>{value}</mbox_{name}>" for name, value in box.items())
    thing = f"<HRSC_Object><Class_ID>100000013</Class_ID>{fields}</HRSC_Object>"
    return f"<HRSC_Image><HRSC_Objects>{thing}</HRSC_Objects></HRSC_Image>"


def write(root: Path, images: str, labels: str, lists: str, text: str) -> Path:
    """Two images, one of each split."""
    for folder in (images, labels, lists):
        (root / folder).mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        make_image(number, WIDTH, HEIGHT).save(root / images / f"{number}.png")
        (root / labels / f"{number}.xml").write_text(text)
        (root / lists / f"{split}.txt").write_text(f"{number}\n")
    return root


@pytest.mark.parametrize(
    ("images", "labels", "lists", "text", "name"),
    [
        (
            *("JPEGImages-trainval", "Annotations/Oriented Bounding Boxes", "ImageSets/Main"),
            *(dior(), "ship"),
        ),
        ("JPEGImages", "Annotations", "ImageSets/Main", dior(), "ship"),
        ("FullDataSet/AllImages", "FullDataSet/Annotations", "ImageSets", hrsc(), "ship"),
    ],
)
def test_folders(
    images: str, labels: str, lists: str, text: str, name: str, tmp_path: Path
) -> None:
    root = write(tmp_path / "raw", images, labels, lists, text)
    assert detect(str(root)) == "turned-xml"
    manifest = read_manifest(prepared(root, tmp_path / "data"))
    assert (manifest.kind, manifest.classes) == ("rotated", (name,))
    assert {split: info.class_counts for split, info in manifest.splits.items()} == {
        "train": (1,),
        "val": (1,),
    }


def test_corners_of_a_centre_and_an_angle() -> None:
    (label,) = parse_turned(hrsc(angle=math.pi / 6).encode(), None).labels
    assert not isinstance(label.fields, FaultError)
    outline = label.fields["segmentation"][0]
    ahead = [(outline[2] + outline[4]) / 2, (outline[3] + outline[5]) / 2]
    assert ahead == pytest.approx([100 + 20 * math.cos(math.pi / 6), 70 + 10])


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (dior("20 30 60 40 58 48 18 x"), kinds.ENTRY, "has 'x' as its robndbox/y_left_bottom"),
        (dior("20 30 60 40 58 48 18 nan"), kinds.BOX_NOT_FINITE, "'nan'"),
        (dior("20 30 20 30 20 30 20 30"), kinds.BOX_WITHOUT_AREA, "without area"),
        (hrsc(width="0"), kinds.BOX_WITHOUT_AREA, "without area"),
        (hrsc(width=""), kinds.ENTRY, "mbox_w"),
    ],
)
def test_faults(text: str, kind: str, reason: str) -> None:
    (label,) = parse_turned(text.encode(), None).labels
    assert isinstance(label.fields, FaultError)
    assert label.fields.kind == kind
    assert reason in label.fields.reason


def test_upright_boxes_are_none_of_them() -> None:
    assert not holds_turned(voc(0).encode())
    assert holds_turned(dior(difficult=1).encode())
    (label,) = parse_turned(dior(difficult=1).encode(), None).labels
    assert not isinstance(label.fields, FaultError)
    assert label.fields["iscrowd"] is True
