from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from itpn_ray.errors import ConfigError
from jobs.config import SubmitConfig
from jobs.submit import submit
from tests.clusters.test_configs import check_kuberay, fields

MANIFEST = str(Path(__file__).parents[2] / "clusters" / "kuberay" / "rayjob.yaml")


def test_the_manifest_runs_the_verb_and_keeps_the_rest(capsys):
    argv = ["pretrain", "nano", "--data", "s3://bucket/with space"]
    assert submit(SubmitConfig(kubernetes=MANIFEST, name="run-1"), argv) == 0
    job, *rest = yaml.safe_load_all(capsys.readouterr().out)
    assert job["metadata"]["name"] == "run-1"
    assert shlex.split(job["spec"].pop("entrypoint")) == ["python", "-m", "itpn_ray.cli", *argv]
    template, *its_rest = yaml.safe_load_all(Path(MANIFEST).read_text())
    del template["spec"]["entrypoint"]
    assert (job["spec"], rest) == (template["spec"], its_rest)


def test_secrets_never_reach_a_manifest(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    config = SubmitConfig(kubernetes=MANIFEST, env=("AWS_SECRET_ACCESS_KEY",))
    with pytest.raises(ConfigError, match="Secret") as caught:
        submit(config, ["pretrain", "nano"])
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["kind: RayCluster", "- 1", "a: [", "kind: !!python/name:os.system"]
)
def test_another_file_is_refused(text, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"rayjob\.yaml"):
        submit(SubmitConfig(kubernetes=str(path)), ["pretrain", "nano"])


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        submit(SubmitConfig(kubernetes=str(tmp_path / "none.yaml")), ["pretrain", "nano"])


def test_a_queued_job_is_suspended_and_has_a_fixed_size(capsys):
    config = SubmitConfig(
        kubernetes=MANIFEST, name="run-1", queue="team-a", nodes=("gpu-spot=4", "gpu-on-demand=1")
    )
    assert submit(config, ["pretrain", "nano", "--workers", "16"]) == 0
    job, *_ = yaml.safe_load_all(capsys.readouterr().out)
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["suspend"] is True
    assert spec["shutdownAfterJobFinishes"] is True  # Kueue refuses a job that leaves its cluster
    assert cluster["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in cluster
    sizes = {
        group["groupName"]: (group["minReplicas"], group["replicas"], group["maxReplicas"])
        for group in cluster["workerGroupSpecs"]
    }
    assert sizes == {"gpu-spot": (4, 4, 4), "gpu-on-demand": (1, 1, 1)}
    check_kuberay(spec, fields("RayJob"), "spec")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"queue": "q"}, "all three"),
        ({"nodes": ("gpu-spot=1",)}, "all three"),
        ({"queue": "q", "nodes": ("gpu-spot",)}, "is no GROUP=N"),
        ({"queue": "q", "nodes": ("gpu-spot=0",)}, "is no GROUP=N"),
        ({"queue": "q", "nodes": ("gpu-spott=1",)}, "Did you mean 'gpu-spot'"),
    ],
)
def test_a_wrong_queue_is_told(options, told):
    with pytest.raises(ConfigError, match=told):
        submit(SubmitConfig(kubernetes=MANIFEST, **options), ["demo"])


def test_a_queue_is_kubernetes_own():
    with pytest.raises(ConfigError, match="all three"):
        SubmitConfig(address="http://127.0.0.1:8265", queue="q", nodes=("gpu-spot=1",))
