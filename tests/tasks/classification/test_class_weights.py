"""Classes that occur unevenly may count evenly, or as they are weighed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from itpn_ray.data.doctor.balance import balance
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError
from itpn_ray.models import create_model
from itpn_ray.recipes import finetune
from itpn_ray.tasks.classification.class_weights import class_weights
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.classification.task import ClassificationNetwork
from itpn_ray.training.advice import find_advice
from itpn_ray.training.launch.setup import check_fit, make_task, open_splits
from tests.data.made import write_dataset
from tests.training.runs import classification, losses, train_alone

CLASSES = ("cat", "dog", "a=b")


def test_balanced_classes_count_the_same_and_images_one_on_average() -> None:
    counts = (90, 9, 1)
    weights = class_weights(("balanced",), CLASSES, counts)
    sums = [weight * count for weight, count in zip(weights, counts, strict=True)]
    assert sums == pytest.approx([100 / 3] * 3)
    assert class_weights(("balanced",), CLASSES, (30, 10, 0)) == [2 / 3, 2.0, 1.0]


def test_given_weights_are_taken_and_the_others_are_one() -> None:
    assert class_weights(("dog=2.5", "a=b=0.5"), CLASSES, (1, 1, 1)) == [1.0, 2.5, 0.5]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("cat",), "is no CLASS=WEIGHT"),
        (("cat=x",), "is no CLASS=WEIGHT"),
        (("cat=0",), "is no CLASS=WEIGHT"),
        (("cat=-1",), "is no CLASS=WEIGHT"),
        (("cat=nan",), "is no CLASS=WEIGHT"),
        (("cat=inf",), "is no CLASS=WEIGHT"),
        (("balanced", "cat=1"), "is no CLASS=WEIGHT"),
        (("cat=1", "cat=2"), "names a class twice"),
    ],
)
def test_what_is_no_weight_is_refused(texts: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"task\.class_weights = .*{told}"):
        Classification(class_weights=texts)


def test_a_class_that_is_not_there_is_refused_before_the_run(prepared: str, tmp_path: Path) -> None:
    config = classification(prepared, tmp_path)
    name = open_splits(config)[0].classes[0]
    task = Classification(class_weights=(f"{name}x=2",))
    with pytest.raises(ConfigError, match=rf"Did you mean '{name}'"):
        check_fit(dataclasses.replace(config, task=task), *open_splits(config))


def test_the_loss_weighs_classes_and_divides_by_images() -> None:
    torch.manual_seed(0)
    classifier = create_model("nano", num_classes=2, image_size=32)
    target = torch.eye(2)[[0, 0, 1]]
    batch = {"image": torch.rand(3, 3, 32, 32), "target": target, "drop_noise": torch.empty(3, 0)}
    logits = classifier(batch["image"]).log_softmax(1)
    expected = -(0.5 * logits[0, 0] + 0.5 * logits[1, 0] + 2.0 * logits[2, 1]) / 3
    found = ClassificationNetwork(classifier, 0.0, [0.5, 2.0])(batch)["loss"]
    torch.testing.assert_close(found, expected)
    assert "class_weights" not in ClassificationNetwork(classifier, 0.0, [1.0, 1.0]).state_dict()


def test_a_run_counts_its_training_images(prepared: str, tmp_path: Path) -> None:
    plain = classification(prepared, tmp_path / "plain")
    task = dataclasses.replace(plain.task, class_weights=("balanced",))
    weighed = dataclasses.replace(plain, task=task, out=str(tmp_path / "weighed"))
    counts = open_splits(plain)[0].manifest.splits["train"].class_counts
    built = make_task(weighed, open_splits(plain)[0].classes).build()
    assert built.class_weights.tolist() == pytest.approx(
        class_weights(("balanced",), open_splits(plain)[0].classes, counts)
    )
    assert len(losses(train_alone(weighed))) == 8


def test_uneven_classes_are_told_by_plan_and_doctor(tmp_path: Path) -> None:
    data = open_dataset(write_dataset(tmp_path / "data", {"train": [80], "val": [8]}), "train")
    split = dataclasses.replace(data.manifest.splits["train"], class_counts=(72, 7, 1))
    data.manifest = dataclasses.replace(data.manifest, splits={"train": split})
    config = finetune.nano()
    told = [advice for advice in find_advice(config, data) if "balanced" in advice]
    assert ["72 times the images" in advice for advice in told] == [True]
    weighed = dataclasses.replace(config, task=Classification(class_weights=("balanced",)))
    assert not any("balanced" in advice for advice in find_advice(weighed, data))
    assert "; 72 to 1; the largest is 90.0%" in balance(data.classes, split.class_counts)


def test_a_head_of_no_initial_weights_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", {"train": [20], "val": [4]})
    plain = classification(data, tmp_path)
    config = dataclasses.replace(plain, task=dataclasses.replace(plain.task, init_head=True))
    with pytest.raises(ConfigError, match=r"task\.init_head = True: there are no initial weights"):
        check_fit(config, *open_splits(config))


@pytest.mark.parametrize(("name", "value"), [("init_key", "model_ema"), ("partial_init", True)])
def test_what_is_said_of_initial_weights_needs_some(
    tmp_path: Path, name: str, value: object
) -> None:
    data = write_dataset(tmp_path / "set", {"train": [20], "val": [4]})
    plain = classification(data, tmp_path)
    config = dataclasses.replace(plain, model=dataclasses.replace(plain.model, **{name: value}))
    with pytest.raises(ConfigError, match=rf"model\.{name} = .*: there are no initial weights"):
        check_fit(config, *open_splits(config))
