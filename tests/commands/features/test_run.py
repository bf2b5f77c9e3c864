"""Embeddings of prepared data and of folders, probed, drawn and written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ray import cloudpickle

import itpn_ray
from itpn_ray import cli
from itpn_ray.commands.features import run as features_run
from itpn_ray.commands.features.config import FeaturesConfig
from itpn_ray.commands.features.network import embed
from itpn_ray.commands.features.run import (
    TABLE,
    UNREADABLE,
    Embedded,
    _accuracies,
    _splits,
    extract,
)
from itpn_ray.data.loading import prepared_images
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.models import create_autoencoder, create_model, load_model, save_model
from itpn_ray.models.networks.base import Network
from itpn_ray.ray_runtime import tasks
from itpn_ray.ray_runtime.tasks import Work
from itpn_ray.terminal.console import Console
from tests.data.made import jpeg, make_image, write_dataset
from tests.models.detection.made import rcnn
from tests.models.nets import classifier


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_model(create_autoencoder("nano", image_size=32), path)
    return str(path)


def test_prepared_data_is_embedded_and_probed(
    prepared: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", weights, prepared, "--workers", "0", "--batch", "10"]
    assert cli.run([*words, "--out", str(tmp_path), "--threads", "1"]) == 0
    folder = tmp_path / "features"
    table = pq.read_table(folder / TABLE)
    assert table.column_names == ["split", "path", "label", "class", "feature"]
    assert table["split"].to_pylist() == ["train"] * 64 + ["val"] * 30
    val = open_dataset(prepared, "val")
    assert table["label"].to_pylist()[64:] == val.labels.tolist()
    row = 64 + 29
    assert table["class"][row].as_py() == val.classes[val.labels[29]]
    assert table["path"][row].as_py() == val[29]["path"]
    network = load_model(weights)
    image = network.preprocess(_pixels(val, 29))
    with torch.no_grad():
        expected = embed(network, image[None])[0]
    found = np.array(table["feature"][row].as_py())
    assert found == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)
    results = json.loads((folder / "results.json").read_text())
    assert {"knn_top1", "probe_top1"} <= results.keys()
    assert 1 <= results["rankme"] <= results["dimensions"] == 128
    assert (folder / "plots/features.png").is_file()
    page = (folder / "report.html").read_text()
    assert "linear probe top-1" in page
    assert "RankMe" in page
    told = capsys.readouterr().out
    assert "n = 30 of val" in told


def _pixels(dataset: object, row: int) -> torch.Tensor:
    from itpn_ray.data.loading.decode import decode_rgb

    shard, inside = dataset.locate(row)  # type: ignore[attr-defined]
    return decode_rgb(dataset.shard(shard).image(inside))  # type: ignore[attr-defined]


def test_a_folder_has_no_labels_and_its_broken_files_are_told(weights: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    for name, size in {"a.jpg": (50, 40), "deep/b.jpg": (40, 500), "c.jpg": (33, 33)}.items():
        (images / name).write_bytes(jpeg(make_image(len(name), *size)))
    (images / "page.jpg").write_text("<html>")
    found = itpn_ray.features(weights, images, out=tmp_path / "out", workers=0, quiet=True)
    table = pq.read_table(found.path / TABLE).to_pylist()
    assert [row["path"] for row in table] == ["a.jpg", "c.jpg", "deep/b.jpg"]
    assert {(row["label"], row["class"], row["split"]) for row in table} == {(-1, None, "")}
    assert found.metrics.keys() == {"rankme"}
    with (found.path / UNREADABLE).open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["page.jpg"]


@pytest.mark.parametrize("make", [classifier, rcnn, lambda: create_model("nano", num_classes=0)])
def test_every_network_has_features(make: object) -> None:
    network: Network = make().eval()  # type: ignore[operator]
    width = network.config.trunk.width
    with torch.no_grad():
        assert embed(network, torch.rand(2, 3, 64, 64)).shape == (2, width)


def test_a_classifier_gives_what_its_head_sees() -> None:
    network = classifier().eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(network.head(embed(network, images)), network(images))


def test_one_split_alone_is_probed_by_its_own_neighbours(
    prepared: str, weights: str, tmp_path: Path
) -> None:
    found = itpn_ray.features(
        weights, prepared, splits=["val"], out=tmp_path, workers=0, quiet=True
    )
    assert found.metrics.keys() == {"knn_top1", "rankme"}


def test_a_split_alone_has_the_neighbours_and_the_interval_that_it_was_asked_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features_run, "PROBED", 6)
    features = torch.eye(8)
    part = Embedded(
        split="val",
        paths=[""] * 8,
        labels=torch.tensor([0, 0, 0, 1, 1, 1, 1, 0]),
        features=features,
    )
    monkeypatch.setattr(features_run, "leave_one_out_accuracy", spied := Spy())
    found, asked = _accuracies(FeaturesConfig(weights="", images="", neighbours=3), [part])
    assert (found, asked) == ({"knn_top1": 0.5}, 6)
    assert (spied.options["neighbours"], spied.options["limit"]) == (3, 6)


def test_data_without_a_train_split_are_embedded_too(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", {"val": [4], "test": [3]})
    found = _splits(FeaturesConfig(weights="", images=data, splits=("train", "val", "test")))
    assert [split.split for split in found] == ["val", "test"]


class Spy:
    """Stands for the probe, and keeps what it is called with."""

    def __call__(self, *arguments: object, **options: Any) -> float:
        self.options = options
        return 0.5


def test_what_cannot_be_embedded_is_refused(prepared: str, weights: str, tmp_path: Path) -> None:
    def call(**changes: object) -> None:
        plain = {"weights": weights, "images": prepared, "out": str(tmp_path), "workers": 0}
        extract(FeaturesConfig(**{**plain, **changes}), command="", console=Console())  # type: ignore[arg-type]

    with pytest.raises(DataError, match=r"splits = .'test'.*has .'train', 'val'"):
        call(splits=("test",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        call(images=str(tmp_path / "empty"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/config.json").write_text('{"run": "taken"}')
    with pytest.raises(ConfigError, match="holds something else than embeddings"):
        call(run="taken")


def test_one_image_may_be_named(weights: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(make_image(0, 40, 50)))
    config = FeaturesConfig(weights=weights, images=str(path), out=str(tmp_path), workers=0)
    folder = extract(config, command="", console=Console())
    assert pq.read_table(folder / TABLE).num_rows == 1


def test_actors_give_what_this_process_gives(
    prepared: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_on_ray(
        make_work: Callable[[], Work], parts: Sequence[Any], **how: Any
    ) -> Iterator[Any]:
        assert how == {"workers": 2, "actors": True, "ordered": True, "cpus": 1, "gpus": 0}
        sent.extend(parts)
        for part in parts:  # each on an actor of its own, that got all of it as bytes
            yield from cloudpickle.loads(cloudpickle.dumps(make_work))()(part)

    sent: list[Any] = []
    monkeypatch.setattr(tasks, "run_on_ray", run_on_ray)
    monkeypatch.setattr(prepared_images, "start_ray", lambda config: nullcontext())
    monkeypatch.setattr(prepared_images, "require_seen", lambda *_: None)
    monkeypatch.setattr(prepared_images, "ship", lambda _: None)
    found = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        settings = {"workers": workers, "threads": 1, "batch": 16, "quiet": True}
        run = itpn_ray.features(weights, prepared, out=out, **settings)
        found.append(pq.read_table(run.path / TABLE))
    assert found[0].equals(found[1])
    assert sent == [(0, 32), (32, 64), (0, 16), (16, 30)]
