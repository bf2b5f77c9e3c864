"""What was written before settings were renamed: runs, weights, prepared data still open."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from itpn_ray import cli
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.experiment import from_dict
from itpn_ray.report import write_report
from itpn_ray.runs.folder import EXPORT
from itpn_ray.runs.reader import read_run
from itpn_ray.training.checkpoint.manifest import NAME, CheckpointManifest, FileEntry

BEFORE = Path(__file__).parent / "fixtures/before"
TITLES = {"pre": "Pre-training", "fine": "Fine-tuning", "det": "Detection"}
DTYPES = {"F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}


def write_zeros(listing: Path, path: Path) -> None:
    """The file of tensors that a listing describes, all of them zero."""
    told = json.loads(listing.read_text())
    tensors = {
        name: torch.zeros(shape, dtype=DTYPES[dtype])
        for name, (dtype, shape) in told["tensors"].items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=told["metadata"])


def write_checkpoint(source: Path, folder: Path) -> None:
    """The checkpoint of a listing; its manifest has the digests of the zeros."""
    folder.mkdir(parents=True)
    shutil.copy(source / "state.json", folder)
    for part in ("network", "optimizer"):
        write_zeros(source / f"{part}.json", folder / f"{part}.safetensors")
    files = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        files[path.name] = FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = CheckpointManifest.decode((source / NAME).read_bytes(), str(source))
    (folder / NAME).write_bytes(replace(manifest, files=files).encode())


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it was, with weights of zeros."""
    place = tmp_path_factory.mktemp("before") / "old"
    shutil.copytree(BEFORE, place)
    for run in TITLES:
        folder = place / "out" / run
        write_zeros(folder / "model.json", folder / EXPORT)
        config = (folder / "config.json").read_text().replace("/tmp/old", str(place))
        (folder / "config.json").write_text(config)
    fine = place / "out/fine"
    step = fine / "checkpoints/step-000000003"
    write_checkpoint(fine / "checkpoint", step)
    (step.parent / "last").symlink_to(step.name)
    return place


def settings(folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((folder / "config.json").read_text())
    del plain["command"]
    return plain


@pytest.mark.parametrize("run", TITLES)
def test_records_and_settings_are_read(before: Path, run: str) -> None:
    folder = before / "out" / run
    record = read_run(folder)
    assert (record.title, record.status) == (TITLES[run], "finished")
    assert TITLES[run] in write_report(folder).read_text()
    plain = settings(folder)
    config = from_dict(plain)
    assert config.optim.lr_milestones == tuple(plain["optim"]["drops"])
    assert config.optim.backbone_lr_scale == plain["optim"]["trunk_scale"]
    assert config.loader.transport == plain["loader"]["carrier"]


@pytest.mark.parametrize("run", TITLES)
def test_weights_are_inspected(before: Path, run: str) -> None:
    assert cli.run(["inspect", str(before / "out" / run)]) == 0


def test_prepared_data_open_and_old_weights_are_evaluated_and_asked(
    before: Path, tmp_path: Path
) -> None:
    data, fine = str(before / "data"), str(before / "out/fine")
    assert [len(open_dataset(data, split)) for split in ("train", "val")] == [24, 8]
    place = ["--data", data, "--out", str(tmp_path), "--gpu", "false"]
    assert cli.run(["evaluate", fine, *place]) == 0
    images = tmp_path / "images"
    images.mkdir()
    from PIL import Image

    Image.new("RGB", (40, 30)).save(images / "a.png")
    answers = str(tmp_path / "answers")
    words = [fine, str(images), "--out", answers, "--workers", "0", "--gpu", "false"]
    assert cli.run(["predict", *words]) == 0
    assert len(json.loads((Path(answers) / "results.json").read_text())) == 1


def test_an_old_run_is_extended_from_its_checkpoint(before: Path) -> None:
    from itpn_ray.terminal.console import Console
    from itpn_ray.training.launch.driver import run

    plain = settings(before / "out/fine")
    plain["optim"]["epochs"] = 2.0
    config = from_dict(plain)
    said = io.StringIO()
    folder = run(config, command="itpn-ray finetune nano", console=Console(stream=said))
    assert "resume: step 3" in said.getvalue()
    assert json.loads((folder / "results.json").read_text())["step"] == 6
