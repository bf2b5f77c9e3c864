from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from itpn_ray.errors import CheckpointError
from itpn_ray.models import save_model
from itpn_ray.models.weights.head import take_head
from itpn_ray.training.launch.setup import make_task
from tests.models.nets import classifier
from tests.training.runs import classification

KNOWN = ["n01", "n02", "n03", "n04", "n05"]


def saved(path: Path, classes: list[str], **changes: Any) -> str:
    network = classifier(num_classes=len(classes), **changes)
    save_model(network, path, {"classes": json.dumps(classes)})
    return str(path)


def test_rows_are_taken_by_name(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.safetensors", KNOWN)
    theirs = dict(classifier(num_classes=5).named_parameters())
    network = classifier(num_classes=3)
    own = dict(network.named_parameters())
    before = own["head.weight"].clone()
    assert take_head(network, ["n04", "new", "n02"], file) == 2
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(own[name][[0, 2]], theirs[name][[3, 1]])
    assert torch.equal(own["head.weight"][1], before[1])


@pytest.mark.parametrize(
    ("classes", "told"), [(KNOWN, "knows n01, n02, n03"), ([], "names no classes")]
)
def test_a_head_of_other_classes_is_refused(tmp_path: Path, classes: list[str], told: str) -> None:
    network = classifier(num_classes=2)
    path = tmp_path / "model.safetensors"
    save_model(network, path, {"classes": json.dumps(classes)})
    with pytest.raises(CheckpointError, match="no head for any") as refused:
        take_head(network, ["cat", "dog"], path)
    assert told in str(refused.value)


def test_fine_tuning_takes_the_head_where_it_is_asked_to(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.safetensors", KNOWN, width=128, heads=4, image_size=32)
    base = classification("", tmp_path)
    task = dataclasses.replace(base.task, init_head=True)  # type: ignore[call-arg]
    model = dataclasses.replace(base.model, init=file)
    with_head = make_task(dataclasses.replace(base, task=task, model=model), ["n05", "n01"])
    network = with_head.build()
    theirs = classifier(num_classes=5, width=128, heads=4, image_size=32)
    own, taken = (of.get_parameter("head.weight") for of in (network.classifier, theirs))
    assert torch.equal(own, taken[[4, 0]])
    assert "the head of 2 of 2 classes" in str(with_head.load_report)
