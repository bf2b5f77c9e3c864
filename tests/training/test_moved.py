"""Data, weights and runs that were moved go on; others in their place are refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from itpn_ray.commands.verify_resume.config import VerifyConfig
from itpn_ray.commands.verify_resume.run import _short
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import ConfigError, DataError, RunError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.runs.folder import EXPORT, INPUTS, TRACKED, tracking_key
from itpn_ray.runs.journal import FileJournal
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.training import inputs
from itpn_ray.training.claim import claim_run, run_folder
from itpn_ray.training.inputs import input_digests
from itpn_ray.training.launch.setup import make_task
from itpn_ray.training.replay import load_step, replay, stop_with_replay
from itpn_ray.tuning.config import SweepConfig
from itpn_ray.tuning.sweep import claim_sweep
from tests.data.made import write_dataset
from tests.tasks.detection_runs import detection
from tests.training.runs import classification, tiny


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(write_dataset(tmp_path / "set", {"train": [20], "val": [4]}))


def resumed(config: ExperimentConfig) -> bool:
    return claim_run(config, "itpn-ray ...")


def test_the_digest_is_of_the_content_alone(data: Path, tmp_path: Path) -> None:
    manifest = read_manifest(str(data))
    digest = manifest.digest
    elsewhere = dataclasses.replace(manifest, settings={"source": "b"}, plan="1" * 64)
    assert elsewhere.digest == digest
    assert dataclasses.replace(manifest, classes=("b", "a", "c")).digest != digest
    other = write_dataset(tmp_path / "other", {"train": [21], "val": [4]})
    assert read_manifest(other).digest != digest


def test_moved_data_go_on_and_others_do_not(data: Path, tmp_path: Path) -> None:
    assert not resumed(tiny(str(data), tmp_path / "out"))
    moved = data.rename(tmp_path / "moved")
    assert resumed(tiny(str(moved), tmp_path / "out"))
    write_dataset(data, {"train": [19], "val": [4]})
    with pytest.raises(ConfigError, match=r"data \(other content\)"):
        claim_run(tiny(str(data), tmp_path / "out"), "")
    shutil.rmtree(moved)
    write_dataset(moved, {"train": [19], "val": [4]})
    with pytest.raises(ConfigError, match=r"data \(other content\)"):
        claim_run(tiny(str(moved), tmp_path / "out"), "")


def test_a_moved_run_goes_on_under_its_new_name(data: Path, tmp_path: Path) -> None:
    claim_run(tiny(str(data), tmp_path / "out"), "")
    (tmp_path / "there").mkdir()
    (tmp_path / "out/run").rename(tmp_path / "there/other")
    assert resumed(tiny(str(data), tmp_path / "there", run="other"))
    with pytest.raises(ConfigError, match="seed"):
        claim_run(tiny(str(data), tmp_path / "there", run="other", seed=7), "")


def test_moved_initial_weights_go_on(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")

    def starting(path: Path) -> ExperimentConfig:
        base = classification(str(data), tmp_path / "out")
        return dataclasses.replace(base, model=dataclasses.replace(base.model, init=str(path)))

    claim_run(starting(tmp_path / "a"), "")
    assert resumed(starting((tmp_path / "a").rename(tmp_path / "b")))
    (tmp_path / "a").write_bytes(b"others")
    with pytest.raises(ConfigError, match=r"model\.init \(other content\)"):
        claim_run(starting(tmp_path / "a"), "")


def test_remote_initial_weights_that_were_replaced_are_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "fetched"
    content.write_bytes(b"weights")
    monkeypatch.setattr(inputs, "locate", lambda init: content)
    base = classification(str(data), tmp_path / "out")
    model = dataclasses.replace(base.model, init="s3://bucket/weights.safetensors")
    config = dataclasses.replace(base, model=model)
    claim_run(config, "")
    assert resumed(config)
    content.write_bytes(b"others")
    with pytest.raises(ConfigError, match=r"model\.init \(other content\)"):
        claim_run(config, "")


def test_a_runs_folder_stands_for_the_weights_in_it(data: Path, tmp_path: Path) -> None:
    exported = tmp_path / "pre" / EXPORT
    exported.parent.mkdir(parents=True)
    exported.write_bytes(b"weights")
    digests = []
    for init in (exported, tmp_path / "pre"):
        base = classification(str(data), tmp_path / "out")
        model = dataclasses.replace(base.model, init=str(init))
        digests.append(input_digests(dataclasses.replace(base, model=model)))
    assert digests[0] == digests[1]


def test_a_moved_teacher_is_known_by_its_content(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"teacher")
    digests = {}
    for name in ("a", "b"):
        if name == "b":
            (tmp_path / "a").rename(tmp_path / "b")
        task = ClipPretraining(teacher=str(tmp_path / name))
        digests[name] = input_digests(tiny(str(data), tmp_path, task=task))
    assert digests["a"] == digests["b"]
    assert digests["a"].keys() == {"data", "task.teacher"}


def test_runs_of_older_versions_are_told_by_their_paths(data: Path, tmp_path: Path) -> None:
    config = tiny(str(data), tmp_path / "out")
    claim_run(config, "")
    folder = run_folder(config)
    (folder / INPUTS).unlink()
    assert resumed(tiny(str(data), tmp_path / "out"))
    (folder / INPUTS).unlink()
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="data"):
        claim_run(tiny(str(moved), tmp_path / "out"), "")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_files_of_a_run_are_told(data: Path, tmp_path: Path, text: str) -> None:
    config = tiny(str(data), tmp_path / "out")
    claim_run(config, "")
    folder = run_folder(config)
    (folder / INPUTS).write_text(text)
    with pytest.raises(DataError, match=r"inputs\.json"):
        claim_run(config, "")


def test_a_sweep_goes_on_with_moved_data_and_folder(data: Path, tmp_path: Path) -> None:
    config = SweepConfig(data=str(data), out=str(tmp_path / "out"), run="first")
    claim_sweep(config, tmp_path / "out/first", "")
    (tmp_path / "out/first").rename(tmp_path / "second")
    moved = data.rename(tmp_path / "moved")
    config = dataclasses.replace(config, data=str(moved), out=str(tmp_path), run="second")
    claim_sweep(config, tmp_path / "second", "")
    with pytest.raises(ConfigError, match="reduction"):
        claim_sweep(dataclasses.replace(config, reduction=4), tmp_path / "second", "")
    other = write_dataset(tmp_path / "other", {"train": [18], "val": [4]})
    with pytest.raises(ConfigError, match=r"data \(other content\)"):
        claim_sweep(dataclasses.replace(config, data=other), tmp_path / "second", "")


def test_the_kill_test_takes_moved_data(data: Path, tmp_path: Path) -> None:
    config = tiny(str(data), tmp_path / "out")
    claim_run(config, "")
    folder = run_folder(config)
    moved = data.rename(tmp_path / "moved")
    found = _short(VerifyConfig(run=str(folder), data=str(moved)))
    assert found.data == str(moved)
    other = write_dataset(tmp_path / "other", {"train": [18], "val": [4]})
    with pytest.raises(ConfigError, match="not the run's data"):
        _short(VerifyConfig(run=str(folder), data=other))


def test_a_kept_step_is_replayed_without_data_and_weights(data: Path, tmp_path: Path) -> None:
    config = classification(str(data), tmp_path / "out")
    task = make_task(config, ("a", "b", "c"))
    network = task.build()
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    batch = {"image": images, "label": torch.tensor([0, 1]), "sample_id": torch.arange(2)}
    batch = task.prepare(batch, epoch=0)
    named: dict[str, Any] = {"init": str(tmp_path / "gone.safetensors")}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **named))
    journal = FileJournal(tmp_path / "out/run")
    with pytest.raises(RunError):
        stop_with_replay(config, network, batch, journal, task=task, step=3, rank=0)
    shutil.rmtree(data)
    (kept,) = (tmp_path / "out/run").glob("replay-*.safetensors")
    assert torch.isfinite(replay(kept)["loss"])


def test_what_a_build_reads_from_other_files_is_kept_with_a_step(
    data: Path, tmp_path: Path, scenes: str
) -> None:
    """Counts of classes for their weights, and the shape of an initial pyramid."""
    weighted = classification(str(data), tmp_path / "weighted")
    weighted = dataclasses.replace(
        weighted, task=dataclasses.replace(weighted.task, class_weights=("balanced",))
    )
    first = tiny(str(data), tmp_path)
    init = str(tmp_path / "first.safetensors")
    pixels = make_task(first, ())
    pixels.export(pixels.build(), Path(init))
    dense = detection(scenes, tmp_path / "dense")
    dense = dataclasses.replace(dense, model=dataclasses.replace(first.model, init=init))
    for config, classes in ((weighted, "abc"), (dense, "abc")):
        task = make_task(config, list(classes))
        network = task.build()
        folder = Path(config.out) / "run"
        with pytest.raises(RunError):
            stop_with_replay(config, network, {}, FileJournal(folder), task=task, step=3, rank=0)
    shutil.rmtree(data)
    Path(init).unlink()
    for config in (weighted, dense):
        (kept,) = (Path(config.out) / "run").glob("replay-*.safetensors")
        loaded, _ = load_step(kept)
        assert isinstance(loaded, nn.Module)


def key_of(out: Path, run: str = "run") -> str:
    return tracking_key(out / run)


def test_a_run_that_was_moved_is_tracked_as_before_and_a_copy_by_itself(
    data: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    resumed(tiny(str(data), first))
    assert key_of(first) == str(first / "run")
    moved = first.rename(tmp_path / "moved")
    for _ in range(2):
        assert resumed(tiny(str(data), moved))
        assert key_of(moved) == str(first / "run")
    shutil.copytree(moved, first)
    shutil.copytree(moved, tmp_path / "copy")
    assert resumed(tiny(str(data), tmp_path / "copy"))
    assert key_of(tmp_path / "copy") == str(tmp_path / "copy/run")


def test_a_moved_run_of_an_older_version_is_tracked_by_its_old_place(
    data: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    resumed(tiny(str(data), first))
    (first / "run" / TRACKED).unlink()
    moved = first.rename(tmp_path / "moved")
    assert resumed(tiny(str(data), moved))
    assert key_of(moved) == str(first / "run")


def test_a_run_moved_to_a_uri_is_tracked_as_before(
    data: Path, tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    local = tiny(str(data), tmp_path / "out")
    resumed(local)
    remote = dataclasses.replace(local, out=s3_uri)
    shutil.move(run_folder(local), run_folder(remote))
    assert resumed(remote)
    assert tracking_key(run_folder(remote)) == str(tmp_path / "out/run")
