from __future__ import annotations

import pytest
import torch

from itpn_ray.errors import CheckpointError
from itpn_ray.models import (
    create_autoencoder,
    create_dense,
    create_model,
    create_rcnn,
    save_model,
    to_official,
)
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.weights.config import InspectConfig
from itpn_ray.models.weights.inspect import inspect_file


def rows_of(path) -> dict[str, str]:
    rows = inspect_file(InspectConfig(file=str(path))).rows()
    names = [name for name, _ in rows]
    assert len(set(names)) == len(names)
    return dict(rows)


def test_a_file_of_this_package(tmp_path):
    acceleration = Acceleration(reduction="migration", ratio=0.3, window=4, gathering=True)
    model = create_model("nano", num_classes=7, image_size=96, acceleration=acceleration)
    save_model(model, tmp_path / "model.safetensors", {"classes": '["cat"]'})
    rows = rows_of(tmp_path / "model.safetensors")
    assert rows["written by"] == "itpn_ray"
    assert rows["network"] == "Fast-iTPN, classifier"
    assert rows["size"].startswith("fast_itpn_nano (0.9")
    assert rows["resolution"] == "96 px (6 x 6 patches)"
    assert rows["acceleration"] == "migration, r = 0.3, windows of 4, gathering tokens"
    assert rows["class names"] == '["cat"]'
    assert rows["classes"] == "7"
    assert rows["pyramid"] == "no"


def test_pyramid_and_decoder(tmp_path):
    save_model(create_autoencoder("nano"), tmp_path / "a.safetensors")
    save_model(create_dense("nano", width=256, heads=8), tmp_path / "d.safetensors")
    rows = rows_of(tmp_path / "a.safetensors")
    assert rows["pyramid"] == "width 64, depth 2"
    assert rows["decoder"] == "width 128, 2 blocks, 8 heads"
    rows = rows_of(tmp_path / "d.safetensors")
    assert rows["decoder"] == "no"
    assert rows["maps"] == "5, from stride 4"
    assert rows["size"].startswith("custom")


def test_a_detector(tmp_path):
    model = create_rcnn("nano", num_classes=5, fc_width=16)
    save_model(model, tmp_path / "r.safetensors")
    rows = rows_of(tmp_path / "r.safetensors")
    assert rows["network"] == "Fast-iTPN, rcnn"
    assert rows["pyramid"] == "width 64, depth 1"
    assert rows["classes"] == "5"


def test_a_file_of_the_authors_with_notes(tmp_path):
    model = create_model("itpn_base", depths=(1, 1, 2), num_classes=3, relative_position=True)
    state = to_official(model)
    del state["blocks.4.norm1.weight"]
    state["teacher.weight"] = torch.zeros(2)
    torch.save({"model": state}, tmp_path / "official.pth")
    rows = inspect_file(InspectConfig(file=str(tmp_path / "official.pth"))).rows()
    assert ("written by", "authors") in rows
    assert ("network", "iTPN, classifier") in rows
    assert ("relative position", "yes") in rows
    assert ("layer scale", "no") in rows
    notes = [value for name, value in rows if name == "note"]
    assert notes == [
        "1 missing: trunk.stage3.0.norm1.weight",
        "1 without a place: teacher.weight",
    ]


def test_a_file_of_neither(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        inspect_file(InspectConfig(file=str(tmp_path / "other.pt")))
