"""Fine-tuning on several labels: targets, what is learned, files, resume, and every verb."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from itpn_ray.cli import run
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models import Classifier, load_model
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import export
from itpn_ray.models.weights.programs import program_of
from itpn_ray.recipes import named, recipes_of
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.tasks.multilabel.task import MultiLabelTask
from itpn_ray.tasks.registry import settings_of_file
from itpn_ray.tasks.serving import ServedModel
from tests.data.made_labels import COLOURS, write_multilabel
from tests.training.runs import final_digest, tiny, train_alone, train_and_stop

ALONE = ["--workers", "0", "--loader.transport", "threads", "--tracking.kind", "none"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared images with several labels: 64 to train on, 21 held out."""
    return write_multilabel(tmp_path_factory.mktemp("labelled"), train=64, val=21)


def multilabel(data: str, out: Path, **changes: Any) -> ExperimentConfig:
    """Sixteen steps at 32 px, with everything random turned on."""
    base = tiny(data, out)
    model = dataclasses.replace(base.model, drop_path=0.2)
    optim = dataclasses.replace(base.optim, epochs=4, lr=4e-3)
    task = MultiLabel(ema_decay=0.9, mixup=0.2, cutmix=0.2, random_erasing=0.2)
    return dataclasses.replace(base, task=task, model=model, optim=optim, **changes)


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "label": torch.full((4,), -1),
        "labels": torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.uint8),
        "sample_id": torch.arange(4),
    }


def made(**settings: float) -> MultiLabelTask:
    model = ModelConfig(name="fast_itpn_nano", image_size=32)
    return MultiLabelTask(TaskSetup(config=MultiLabel(**settings), model=model, classes=COLOURS))


def test_the_loss_is_binary_cross_entropy() -> None:
    task = made()
    network = task.build()
    ready = task.prepare(batch(), epoch=0)
    assert ready["target"].tolist() == batch()["labels"].tolist()
    scores = network.classifier(ready["image"]).sigmoid().double()
    target = ready["target"].double()
    by_hand = -(target * scores.log() + (1 - target) * (1 - scores).log()).mean()
    torch.testing.assert_close(network(ready)["loss"].double(), by_hand, rtol=1e-5, atol=1e-6)
    halves = [network(task.cut(ready, at, at + 2))["loss"] for at in (0, 2)]
    torch.testing.assert_close(sum(halves) / 2, network(ready)["loss"])


def test_targets_are_mixed_as_images_are() -> None:
    task = made(mixup=0.8)
    task.build()
    ready = task.prepare(batch(), epoch=0)
    own, other = batch()["labels"].float(), batch()["labels"].float()[[1, 0, 3, 2]]
    weight = (ready["target"][0, 0] / 1.0).item()  # the first image shows it, its partner does not
    assert 0 < weight < 1
    torch.testing.assert_close(ready["target"][:2], (weight * own + (1 - weight) * other)[:2])


def test_colours_are_learned(labelled: str, tmp_path: Path) -> None:
    records = train_alone(multilabel(labelled, tmp_path, eval_every=4))
    (found,) = [record for record in records if record["split"] == "val"]
    assert found["map"] > 0.9
    assert found["loss"] < 0.6


def test_a_stopped_run_ends_with_the_same_bits(
    labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = multilabel(labelled, tmp_path / "a"), multilabel(labelled, tmp_path / "b")
    train_alone(whole)
    train_and_stop(stopped, monkeypatch, step=7)
    train_alone(stopped)
    assert final_digest(stopped) == final_digest(whole)


@pytest.fixture(scope="module")
def trained(labelled: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, trained by the verb."""
    out = tmp_path_factory.mktemp("out")
    options = ["--model.image-size", "32", "--optim.global-batch", "16", "--optim.epochs", "4"]
    words = ["finetune", "nano_multilabel", *ALONE, *options, "--optim.lr", "4e-3"]
    assert run([*words, "--data", labelled, "--out", str(out), "--eval-every", "4"]) == 0
    return out / "finetune"


def test_its_report_has_a_table_of_classes(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    assert "mAP" in page
    assert "Classes, worst first" in page


def test_its_file_says_that_scores_are_sigmoids(trained: Path) -> None:
    network = load_model(trained)
    assert isinstance(network, Classifier)
    assert network.several_labels
    assert network.classes == COLOURS
    assert settings_of_file(str(trained)) is MultiLabel


def test_evaluate_finds_what_training_found(trained: Path, labelled: str, tmp_path: Path) -> None:
    words = ["evaluate", str(trained), "--data", labelled, "--out", str(tmp_path)]
    assert run([*words, "--run", "done", "--migration", "0"]) == 0
    found = json.loads((tmp_path / "done/results.json").read_text())
    (during,) = [
        record
        for record in map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
        if record["split"] == "val"
    ]
    assert [row["name"] for row in found["per_class"]] == list(COLOURS)
    assert found["migration"][0]["map"] == pytest.approx(during["map"])
    assert found["images"] == 21


def test_predict_writes_all_labels_that_are_sure_enough(
    trained: Path, labelled: str, tmp_path: Path
) -> None:
    raw = Path(labelled).parent / "raw"
    out = tmp_path / "out"
    words = ["predict", str(trained), str(raw), "--out", str(out), "--workers", "0"]
    assert run([*words, "--min-score", "0.5"]) == 0
    entries = json.loads((out / "results.json").read_text())
    assert len(entries) == 85
    network = load_model(trained)
    for entry in entries[:6]:
        with torch.no_grad():
            scores = network(network.preprocess(raw / entry["file_name"])[None])[0].sigmoid()
        sure = {COLOURS[n]: float(s) for n, s in enumerate(scores) if s >= 0.5}
        assert {one["class"]: one["score"] for one in entry["labels"]} == pytest.approx(
            sure, abs=1e-5
        )
        ranked = [one["score"] for one in entry["labels"]]
        assert ranked == sorted(ranked, reverse=True)
    assert len(list((out / "drawn").rglob("*.jpg"))) == 85


def test_it_answers_for_bytes(trained: Path, labelled: str) -> None:
    row = open_dataset(labelled, "val")[0]
    (answer,) = ServedModel(str(trained)).predict({"image": [row["image"]]})
    assert {one["class"] for one in answer["found"][0]["labels"]} == set(COLOURS)


def test_a_program_with_processing_gives_sigmoids(trained: Path, tmp_path: Path) -> None:
    network = load_model(trained)
    program = program_of(network, processing=True)
    assert program.outputs == ("probabilities",)
    pixels = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    logits = network(normalise(pixels.permute(0, 3, 1, 2)))
    torch.testing.assert_close(program.module(pixels)[0], logits.sigmoid(), rtol=1e-4, atol=1e-5)
    report = export(ExportConfig(file=str(trained), out=str(tmp_path / "net.safetensors")))
    assert "sigmoid()" in report.card.read_text()
    assert load_model(tmp_path / "net.safetensors").several_labels  # type: ignore[attr-defined]


def test_what_a_sweep_maximises() -> None:
    sweep = named(recipes_of("tune"), "nano_multilabel")
    assert sweep.finetune.task.headline().name == "map"


@pytest.mark.slow  # half a minute, most of it Ray's and MLflow's start
def test_a_sweep_maximises_map(labelled: str, tmp_path: Path) -> None:
    code = run(
        [
            *("tune", "nano_multilabel", "--data", labelled, "--out", str(tmp_path)),
            *("--trials", "2", "--concurrent", "1", "--tracking.kind", "none"),
            *("--finetune.model.init", "zoo:nano_clothing10", "--finetune.model.image-size", "32"),
            *("--finetune.optim.global-batch", "16", "--finetune.optim.epochs", "2"),
            *("--space.optim.lr", "log", "1e-3", "4e-3"),
        ]
    )
    assert code == 0
    assert "mAP" in (tmp_path / "tune/report.html").read_text()


@pytest.mark.parametrize(
    ("recipe", "data", "cause"),
    [
        ("nano", "labelled", "for multi-label classification, but a class of each image"),
        ("nano_multilabel", "prepared", "for classification, but a list of labels of each"),
        ("nano_multilabel", "scenes", "for detection, but a list of labels of each"),
    ],
)
def test_wrong_pairs_are_refused(
    recipe: str,
    data: str,
    cause: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["finetune", recipe, *ALONE, "--optim.global-batch", "2"]
    out = tmp_path / "out"
    assert run([*words, "--data", request.getfixturevalue(data), "--out", str(out)]) == 2
    assert cause in capsys.readouterr().err
    assert not out.exists()


def test_pretraining_takes_the_images(labelled: str, tmp_path: Path) -> None:
    records = train_alone(tiny(labelled, tmp_path, eval_every=2))
    assert {record["split"] for record in records} == {"train", "val", "probe"}
    assert not any("knn_top1" in record for record in records)
