"""Runs that are stopped, and what can be done with a run that has not ended."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from itpn_ray.errors import CheckpointError
from itpn_ray.experiment import CheckpointConfig
from itpn_ray.interrupt import Interrupted
from itpn_ray.models import load_model
from itpn_ray.models.weights.raw_files import read_safetensors
from itpn_ray.runs.folder import EXPORT
from itpn_ray.runs.journal import EVENTS, STOP, FileJournal, read_lines
from itpn_ray.terminal.console import Console
from itpn_ray.training import loop
from itpn_ray.training.exporting import weight_file
from itpn_ray.training.launch.driver import run
from itpn_ray.training.launch.process import open_checkpoints
from itpn_ray.training.stopping import StopRequest
from tests.training.runs import (
    Stop,
    classification,
    final_digest,
    stop_at,
    tiny,
    train_alone,
    train_and_stop,
)


def signalled_at(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: int) -> None:
    """Send signals to this process once ``step`` steps are done."""
    done, agree = 0, loop._agree

    def signalling(*arguments: object) -> object:
        nonlocal done
        if done == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        done += 1
        return agree(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_agree", signalling)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole, stopped = classification(prepared, tmp_path / "a"), classification(prepared, tmp_path)
    train_alone(whole)
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        signalled_at(patch, 4, number)
        with pytest.raises(Interrupted) as caught:
            run(stopped, command="finetune", console=Console(stream=stream))
    assert caught.value.exit_code == 128 + number
    assert open_checkpoints(stopped).steps()[-1] == 5
    events = read_lines(tmp_path / "run" / EVENTS)
    assert events[-1]["status"] == "INTERRUPTED"
    assert ("saving a checkpoint" in stream.getvalue()) == (number == signal.SIGINT)
    assert not (tmp_path / "run" / STOP).exists()
    run(stopped, command="finetune", console=Console(stream=stream))
    assert final_digest(stopped) == final_digest(whole)
    assert read_lines(tmp_path / "run" / EVENTS)[-1]["status"] == "FINISHED"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    request = StopRequest(journal)
    with pytest.raises(Interrupted):
        request(signal.SIGINT, None)  # nobody trains yet
    journal.status(0, phase="computing")
    request(signal.SIGINT, None)
    assert journal.stop_asked()
    with pytest.raises(Interrupted) as caught:
        request(signal.SIGTERM, None)
    assert caught.value.exit_code == 143
    with pytest.raises(Interrupted) as caught:
        request.check()
    assert caught.value.exit_code == 130
    journal.take_back_stop()
    assert not journal.stop_asked()


def test_weights_of_a_run_that_has_not_ended_are_the_average_of_its_checkpoint(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = classification(prepared, tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stop):
            run(config, command="", console=Console(stream=io.StringIO()))
    moved = tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    said: list[str] = []
    path = weight_file(str(moved), said.append)
    assert path == moved / "exported/step-000000003.safetensors"
    assert "step 3 is taken (epoch 0.75 of 2)" in said[0]
    here = dataclasses.replace(config, run="moved")
    network = open_checkpoints(here).load(3).load("network")["network"]
    average = {n.removeprefix("average."): t for n, t in network.items() if n.startswith("average")}
    found = read_safetensors(path)[1]
    assert found.keys() == average.keys()
    assert all(torch.equal(found[name], average[name]) for name in found)
    assert weight_file(str(moved), said.append) == path


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    assert weight_file(str(tmp_path), print) == tmp_path / EXPORT
    (tmp_path / "config.json").write_text(json.dumps({"weights": "of an evaluation"}))
    with pytest.raises(CheckpointError, match="is not the configuration of a training run"):
        weight_file(str(tmp_path), print)


def accuracies(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Let the evaluations of a run find these values of top-1."""
    from itpn_ray.tasks.batches import Evaluation
    from itpn_ray.tasks.classification.task import ClassificationTask

    found = iter(values)

    def evaluate(*arguments: object) -> list[Evaluation]:
        return [Evaluation(split="val", metrics={"top1": next(found)}, details={})]

    monkeypatch.setattr(ClassificationTask, "evaluate", evaluate)


def test_the_best_is_kept_and_exported_and_a_run_that_gets_no_better_ends(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = classification(prepared, tmp_path, eval_every=1, early_stopping=2)
    config = dataclasses.replace(
        base,
        optim=dataclasses.replace(base.optim, epochs=9),
        checkpoint=CheckpointConfig(every_steps=100, keep_last=1, keep_best=True),
    )
    accuracies(monkeypatch, 0.2, 0.6, 0.5, 0.6, 0.9)
    folder = run(config, command="", console=Console(stream=io.StringIO()))
    assert open_checkpoints(config).steps() == [8, 16]
    best = open_checkpoints(config).best()
    assert best is not None
    assert best.step == 8
    events = read_lines(folder / EVENTS)
    assert [e["step"] for e in events if e["event"] == "early_stop"] == [16]
    assert json.loads((folder / "results.json").read_text()) == {"top1": 0.6, "step": 8}
    name = "classifier.head.weight"
    state = best.load("network")["network"]
    exported = load_model(folder / EXPORT).state_dict()
    assert torch.equal(exported["head.weight"], state[name.replace("classifier", "average")])


def test_a_resumed_run_knows_its_best(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = classification(prepared, tmp_path, eval_every=1)
    config = dataclasses.replace(
        base,
        optim=dataclasses.replace(base.optim, epochs=3),
        checkpoint=CheckpointConfig(every_steps=100, keep_best=True),
    )
    accuracies(monkeypatch, 0.7, 0.3, 0.5)
    train_and_stop(config, monkeypatch, 6)
    train_alone(config)
    best = open_checkpoints(config).best()
    assert best is not None
    assert best.step == 4


def test_a_finished_run_is_extended(prepared: str, tmp_path: Path) -> None:
    config = tiny(prepared, tmp_path, eval_every=-1)
    run(config, command="", console=Console(stream=io.StringIO()))
    longer = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=3))
    stream = io.StringIO()
    folder = run(longer, command="", console=Console(stream=stream))
    assert "is extended from 2 to 3 epochs: the learning rate follows" in stream.getvalue()
    assert "0.00025 after epoch 2" in stream.getvalue()
    resumed = [e["step"] for e in read_lines(folder / EVENTS) if e["event"] == "resume"]
    assert resumed == [8]
    assert open_checkpoints(longer).steps()[-1] == 12
    assert sorted(path.name for path in (folder / "exported").iterdir()) == [
        "model-2-epochs.safetensors",
        "model.safetensors",
    ]
