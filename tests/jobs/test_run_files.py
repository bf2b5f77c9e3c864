"""The shipped job files, run on tiny data through a real job server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from itpn_ray import cli
from itpn_ray.data.prepare.config import SynthesizeConfig
from itpn_ray.data.synthetic.layouts import generate
from tests.head import Head

JOBS = Path(__file__).parents[2] / "jobs"
SMALL = (
    *("model.image-size=32", "optim.global-batch=16", "optim.warmup-epochs=0", "optim.epochs=1"),
    *("loader.transport=threads", "loader.threads=1", "tracking.kind=none", "cpus-per-worker=1"),
)


CANARIES = {
    "AWS_ACCESS_KEY_ID": "canary-key-id-51c0",
    "AWS_SECRET_ACCESS_KEY": "canary-secret-key-9d2e",
    "MLFLOW_TRACKING_TOKEN": "canary-mlflow-token-77ab",
}
"""Secrets of whoever submits: handed on, and written nowhere."""


@pytest.fixture(autouse=True)
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def submitted(head: Head, file: str, *changes: str) -> int:
    words = [word for change in changes for word in ("--set", change)]
    to = ["--address", head.jobs_address, "--connect-timeout-s", "60", "--env", *CANARIES]
    return cli.run(["submit", str(JOBS / file), *to, *words])


def files_with_secrets(*folders: Path) -> list[tuple[Path, str]]:
    """Every file that holds a canary or the cluster's token."""
    secrets = [*CANARIES.values(), os.environ["RAY_AUTH_TOKEN"]]
    return [
        (path, secret)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
        for secret in secrets
        if secret.encode() in path.read_bytes()
    ]


def small(step: str) -> list[str]:
    return [f"{step}.{change}" for change in SMALL]


def test_a_chain_and_its_finished_steps(
    head: Head, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = str(tmp_path / "raw")
    generate(SynthesizeConfig(out=raw, train=48, val=16, side=40, num_workers=0))
    changes = [
        *(f"raw={raw}", f"place={tmp_path}", "pretrain=nano", "finetune=nano"),
        *("gpus=false", "workers=0", "prepare.num-workers=0"),
        *small("pretrain"),
        *small("finetune"),
    ]
    assert submitted(head, "chain.yaml", *changes) == 0
    said = capfd.readouterr().out
    assert "step evaluate, 4 of 4" in said
    results = json.loads((tmp_path / "runs" / "evaluate" / "results.json").read_text())
    assert [row["migration"] for row in results["migration"]] == [0.0, 0.2]
    # Runs, their logs and reports; Ray's logs, and those of the jobs.
    assert files_with_secrets(tmp_path, head.folder) == []
    from ray.job_submission import JobSubmissionClient

    jobs = JobSubmissionClient(head.jobs_address).list_jobs()
    assert any("jobs.chain" in job.entrypoint for job in jobs)
    assert not any(secret in job.entrypoint for job in jobs for secret in CANARIES.values())
    assert submitted(head, "chain.yaml", *changes) == 0
    said = capfd.readouterr().out
    assert said.count("was done before") == 4
    assert "step evaluate, 4 of 4" not in said


@pytest.mark.slow
@pytest.mark.parametrize("file", ["imagenet_pretrain", "imagenet_finetune"])
def test_training_files(head: Head, prepared: str, tmp_path: Path, file: str) -> None:
    step = file.removeprefix("imagenet_")
    place = [f"data={prepared}", f"out={tmp_path}", "gpus=false", "cpus=1", "workers=1"]
    weights = [] if step == "pretrain" else [f"weights={tmp_path / 'none'}"]
    fresh = [] if step == "pretrain" else ["finetune.model.init="]
    changes = [*place, *weights, *fresh, "recipe=nano", *small(step)]
    changes.remove(f"{step}.tracking.kind=none")
    assert submitted(head, f"{file}.yaml", *changes) == 0
    assert (tmp_path / "mlflow.db").is_file()
    assert files_with_secrets(tmp_path) == []
    assert (tmp_path / f"imagenet-{step}" / "exported" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_detection_file(head: Head, scenes: str, tmp_path: Path) -> None:
    changes = [
        *(f"data={scenes}", f"out={tmp_path}", "weights=none", "gpus=false", "cpus=1", "workers=1"),
        *("recipe=nano", "detect.model.init=", "detect.tracking.kind=none"),
        *(f"detect.optim.{one}" for one in ("epochs=1", "global-batch=4", "warmup-steps=0")),
    ]
    assert submitted(head, "coco_detect.yaml", *changes) == 0
    assert (tmp_path / "coco-detect" / "exported" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_sweep_file(head: Head, prepared: str, tmp_path: Path) -> None:
    changes = [
        *(f"data={prepared}", f"out={tmp_path}", "trials=2", "concurrent=1"),
        *(f"tune.{stage}.{one}" for stage in ("pretrain", "finetune") for one in SMALL),
    ]
    assert submitted(head, "sweep.yaml", *changes) == 0
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert len(results["trials"]) == 2
