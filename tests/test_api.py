"""The verbs as Python functions do what the command line does."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import itpn_ray
from itpn_ray import cli
from itpn_ray.commands.evaluate import run
from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.errors import ConfigError
from itpn_ray.models import Classifier
from itpn_ray.runs.journal import FileJournal
from itpn_ray.terminal.console import Console
from tests.data.made import jpeg, make_image

HERE = {"workers": 0, "loader": {"transport": "threads"}, "tracking": {"kind": "none"}}
SMALL = {"model": {"image_size": 32}, "optim": {"epochs": 1, "global_batch": 16}, **HERE}


def test_functions_are_verbs() -> None:
    verbs = {name for name in itpn_ray.__all__ if inspect.isfunction(getattr(itpn_ray, name))}
    assert verbs <= cli.VERBS.keys()


def test_from_images_to_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        path = tmp_path / f"images/{number % 2}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(make_image(number, 40, 40)))
    data = itpn_ray.prepare(tmp_path / "images", tmp_path / "data", num_workers=0)
    out = tmp_path / "out"
    fine = itpn_ray.finetune("nano", data=data, out=out, **SMALL)
    assert fine.path == out / "finetune"
    assert 0 <= fine.metrics["top1"] <= 1
    assert len(fine.results["per_class"]) == 2
    assert fine.report.is_file()
    assert json.loads((fine.path / "config.json").read_text())["command"].startswith(
        f"itpn_ray.finetune('nano', data='{data}'"
    )
    assert isinstance(fine.load_model(), Classifier)
    again = itpn_ray.finetune("nano", data=data, out=out, **SMALL)
    assert again == fine
    assert "nothing to do" in capsys.readouterr().out
    answers = itpn_ray.predict(
        fine, tmp_path / "images", out=tmp_path / "said", workers=0, draw_side=0
    )
    assert len(json.loads((answers / "results.json").read_text())) == 40
    written = itpn_ray.export(fine, tmp_path / "small.safetensors", quiet=True)
    assert Path(written.path).is_file()


def test_an_evaluation_is_a_run(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(config: EvaluateConfig, *, command: str, console: Console) -> Path:
        row = {"migration": config.migration[0], "top1": 0.5}
        FileJournal(tmp_path).result(migration=[row], top1=0.5)
        assert command == f"itpn_ray.evaluate(weights='w', data='{prepared}', migration=[0.2])"
        assert console.verbosity == "quiet"
        return tmp_path

    monkeypatch.setattr(run, "evaluate", measure)
    evaluation = itpn_ray.evaluate(Path("w"), prepared, migration=[0.2], quiet=True)
    assert evaluation.metrics == {"top1": 0.5}
    assert evaluation.results["migration"] == [{"migration": 0.2, "top1": 0.5}]


def test_mistakes_are_errors_and_not_exits() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'nano'"):
        itpn_ray.finetune("nanoo")
    with pytest.raises(ConfigError, match="names no prepared data"):
        itpn_ray.pretrain("nano", **HERE)
    with pytest.raises(ConfigError, match="migration"):
        itpn_ray.evaluate("weights", "data", migration=[2.0])
