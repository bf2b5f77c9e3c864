"""A sweep: trials under Ray Tune, one nested run each, and nothing done twice."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from itpn_ray.data.config import LoaderConfig
from itpn_ray.errors import ConfigError, TrialsError
from itpn_ray.evaluation.speed import Speed
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.runs.folder import EXPORT
from itpn_ray.runs.journal import read_lines
from itpn_ray.storage import open_store
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import tracking_uri
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.tuning.config import SweepConfig, pretraining, trial
from itpn_ray.tuning.speed import Timing, key_of, networks
from itpn_ray.tuning.study import name_of
from itpn_ray.tuning.sweep import _preflight, _tell_failures, with_slots
from itpn_ray.tuning.trials import rows_of
from tests.training.runs import classification, tiny


def config(prepared: str, out: Path) -> SweepConfig:
    before = tiny(prepared, out)
    after = classification(
        prepared, out, workers="1", loader=LoaderConfig(threads=1, prefetch=32), eval_every=1
    )
    return SweepConfig(
        out=str(out),
        data=prepared,
        trials=2,
        concurrent=2,
        space=(
            "task.feature_weight choice 0",
            "optim.layer_decay uniform 0.6 1",
            "model.migration choice 0 0.3",
        ),
        grace_epochs=1,
        pretrain=dataclasses.replace(before, optim=dataclasses.replace(before.optim, epochs=0.5)),
        finetune=after,
        tracking=TrackingConfig(),
    )


def test_a_private_ray_has_the_cpus_of_all_trials_at_once(tmp_path: Path) -> None:
    plain = config("", tmp_path)
    finetune = dataclasses.replace(plain.finetune, workers="2", cpus_per_worker=8.0)
    assert with_slots(dataclasses.replace(plain, trials=30, finetune=finetune)).num_cpus == 512


def test_a_trunk_that_a_sweep_pretrains_may_be_frozen(prepared: str, tmp_path: Path) -> None:
    plain = config(prepared, tmp_path)
    model = dataclasses.replace(plain.finetune.model, freeze_trunk=True, drop_path=0.0)
    finetune = dataclasses.replace(plain.finetune, model=model)
    _preflight(dataclasses.replace(plain, finetune=finetune))


def test_runs_of_a_sweep(prepared: str, tmp_path: Path) -> None:
    sweep = config(prepared, tmp_path)
    point = {"feature_weight": 0.0, "layer_decay": 0.8, "migration": 0.3}
    before = pretraining(sweep, point)
    assert (before.task.feature_weight, before.out) == (0.0, str(tmp_path / "pretrained"))
    assert before.tracking.uri == tracking_uri(sweep.tracking, tmp_path)
    after = trial(sweep, str(tmp_path / "tune"), "trial-1", point, "weights")
    assert (after.optim.layer_decay, after.model.migration, after.model.init) == (
        0.8,
        0.3,
        "weights",
    )


def test_failed_trials_are_counted_and_those_that_were_stopped_early_are_not() -> None:
    done, stopped = {"trial": "a", "top1": 0.9}, {"trial": "b", "top1": 0.1, "epoch": 1}
    _tell_failures([done, stopped], "top1")
    failed = [{"trial": "c", "error": "boom"}, {"trial": "d"}]
    with pytest.raises(
        TrialsError, match=r"trials = 2: of 4 failed, the first, c, with: boom\."
    ) as e:
        _tell_failures([done, stopped, *failed], "top1")
    assert e.value.exit_code == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"trials": 0}, "trials"),
        ({"space": ("optim.layer_decay uniform 0.9 0.5",)}, "layer_decay"),
        ({"space": ()}, "space"),
        ({"space": ("model.migration choice 0.95",)}, "migration"),
        ({"search": "genetic"}, "search"),
        ({"at_least": -1.0}, "at_least"),
        (
            {
                "finetune": ExperimentConfig(
                    task=Classification(), workers="0", loader=LoaderConfig(transport="threads")
                )
            },
            r"finetune\.workers = '0'",
        ),
    ],
)
def test_bad_settings(prepared: str, tmp_path: Path, changes: dict, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(config(prepared, tmp_path), **changes)


def test_a_sweep_under_a_uri_goes_on_on_another_machine(
    prepared: str, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Study, trials and results lie under the URI; the trials themselves are stood in for."""
    from itpn_ray.tuning import sweep as driver

    metrics = {"split": "val", "top1": 0.5, "loss": 1.0, "epoch": 4.0, "step": 8, "time": 0.0}
    machines: list[list[str]] = []

    def trials(config: SweepConfig, folder: Path, weights: dict, *others: object) -> list[dict]:
        timed, study = others[:2]
        assert weights == {}
        machines.append([name_of(one) for one in study.trials()])
        while taken := study.take():
            place = folder / "trials" / taken[0]
            (place / "exported").mkdir(parents=True)
            (place / EXPORT).write_bytes(b"weights")
            (place / "config.json").write_text("{}")
            (place / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
            study.complete(taken[0], (0.5, 100.0))
            if len(machines) == 1:
                raise KeyboardInterrupt
        return rows_of(config, folder, timed, study, {})

    settings = config(prepared, tmp_path)
    settings = dataclasses.replace(
        settings,
        out=f"{s3_uri}/out",
        apply="best",
        tracking=TrackingConfig(kind="none"),
        finetune=dataclasses.replace(
            settings.finetune, model=dataclasses.replace(settings.finetune.model, init="")
        ),
    )
    speed = Speed(images_per_s=100.0, low=90.0, high=110.0, timings=3)
    timing = Timing(throughput=speed, latency_ms=5.0)
    known = {key_of(one): timing for one in networks(settings)}
    monkeypatch.setattr(driver, "start_ray", lambda *a, **b: nullcontext())
    monkeypatch.setattr(driver, "_timings", lambda *a: known)
    monkeypatch.setattr(driver, "_pretrained", lambda *a: {})
    monkeypatch.setattr(driver, "_trials", trials)
    for number, ended in enumerate((pytest.raises(KeyboardInterrupt), nullcontext())):
        (tmp_path / f"machine-{number}").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / f"machine-{number}"))
        with ended:
            driver.sweep(settings, command="itpn-ray tune", console=Console(stream=io.StringIO()))
    assert machines == [[], ["trial-000"]]
    store = open_store(f"{s3_uri}/out/tune")
    rows = json.loads(store.read_bytes("results.json"))["trials"]
    assert sorted(row["trial"] for row in rows) == ["trial-000", "trial-001"]
    assert {"study.sqlite", "report.html", "config.json", f"best/{EXPORT}"} <= set(store.list())
    assert store.exists(f"trials/trial-000/{EXPORT}")
    assert not [key for key in store.list() if "canary" in store.read_bytes(key).decode("latin-1")]


@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_ends_with_a_table_and_is_not_run_twice(prepared: str, tmp_path: Path) -> None:
    from itpn_ray.tuning.sweep import sweep

    settings = config(prepared, tmp_path)
    folder = sweep(settings, command="itpn-ray tune", console=Console(stream=io.StringIO()))
    rows = json.loads((folder / "results.json").read_text())["trials"]
    assert len(rows) == 2
    assert all(
        {"top1", "images_per_s", "ms", "layer_decay", "feature_weight"} <= row.keys()
        for row in rows
    )
    assert any(row["front"] for row in rows)
    assert (folder / "plots/front.png").stat().st_size > 0
    before = pretraining(settings, {"feature_weight": 0.0}).run
    assert nested_runs(tmp_path, folder) == sorted([before, *(row["trial"] for row in rows)])

    stamps = {p: p.stat().st_mtime_ns for p in (folder / "trials").glob("*/metrics.jsonl")}
    again = dataclasses.replace(settings, apply="best")
    sweep(again, command="itpn-ray tune", console=Console(stream=io.StringIO()))
    results = json.loads((folder / "results.json").read_text())
    assert results["answer"].startswith(results["best"])
    assert "are needed" in results["importance_refused"]
    config_of_best = json.loads((folder / "best/config.json").read_text())
    assert config_of_best["run"] == results["best"]
    assert (folder / "best/exported/model.safetensors").is_file()
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert nested_runs(tmp_path, folder) == sorted([before, *(row["trial"] for row in rows)])
    assert results["pretraining_hours"] > 0
    assert results["trial_hours"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [2.0, 20.0])
def test_a_killed_sweep_goes_on(prepared: str, tmp_path: Path, after_s: float) -> None:
    """Two times: before and after Tune's first snapshot of its own state."""
    command = [
        sys.executable, "-m", "itpn_ray.cli", "tune", "nano", f"--data={prepared}",
        f"--out={tmp_path}", "--trials=3", "--grace-epochs=40",
        "--space.task.feature-weight", "choice", "0.3", "--space.model.migration", "choice", "0",
        "0.3", "--space.optim.layer-decay", "uniform", "0.6", "1",
        "--pretrain.optim.global-batch=16", "--pretrain.optim.epochs=1",
        "--finetune.optim.global-batch=16", "--finetune.optim.epochs=40",
        "--finetune.checkpoint.every-steps=4",
    ]  # fmt: skip
    folder = tmp_path / "tune"
    driver = subprocess.Popen(command, start_new_session=True)
    while not list(folder.glob("trials/*/metrics.jsonl")):
        assert driver.poll() is None
        time.sleep(0.1)
    time.sleep(after_s)
    driver.kill()
    driver.wait()
    begun = {
        path.parent.name: json.loads((path.parent / "config.json").read_text())
        for path in folder.glob("trials/*/metrics.jsonl")
    }
    subprocess.run(command, check=True)
    rows = json.loads((folder / "results.json").read_text())["trials"]
    assert [row["epoch"] for row in rows] == [40.0] * 3
    for row in rows:
        if row["trial"] in begun:
            assert begun[row["trial"]]["optim"]["layer_decay"] == row["layer_decay"]
            assert begun[row["trial"]]["model"]["migration"] == row["migration"]
        events = read_lines(folder / "trials" / row["trial"] / "events.jsonl")
        resumed = [event["step"] for event in events if event["event"] == "resume"]
        assert bool(resumed) == (row["trial"] in begun)
        records = read_lines(folder / "trials" / row["trial"] / "metrics.jsonl")
        steps = [record["step"] for record in records if record["split"] == "train"]
        assert steps == sorted(set(steps))
    trials = [name for name in nested_runs(tmp_path, folder) if name.startswith("trial")]
    assert trials == sorted(row["trial"] for row in rows)


def nested_runs(out: Path, folder: Path) -> list[str]:
    """Trials and pre-trainings with a finished MLflow run below the sweep's."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(TrackingConfig(), out))
    experiment = client.get_experiment_by_name("itpn_ray")
    runs = client.search_runs([experiment.experiment_id])
    by_key = {run.data.tags["itpn_ray.key"]: run for run in runs}
    parent = by_key[str(folder)].info.run_id
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent]
    assert all(run.info.status == "FINISHED" for run in children)
    return sorted(Path(run.data.tags["itpn_ray.key"]).name for run in children)
