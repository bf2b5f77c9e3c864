from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from itpn_ray.errors import ConfigError
from jobs.config import SubmitConfig
from jobs.submit import submit

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
