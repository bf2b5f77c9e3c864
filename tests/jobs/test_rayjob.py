from __future__ import annotations

import shlex

import pytest
import yaml

from itpn_ray.errors import ConfigError
from jobs.config import SubmitConfig
from jobs.submit import submit


def test_a_manifest_runs_the_verb_on_the_named_cluster(capsys):
    argv = ["pretrain", "nano", "--data", "s3://bucket/with space"]
    assert submit(SubmitConfig(kubernetes="itpn", name="run-1"), argv) == 0
    manifest = yaml.safe_load(capsys.readouterr().out)
    assert manifest["kind"] == "RayJob"
    assert manifest["metadata"]["name"] == "run-1"
    assert manifest["spec"]["clusterSelector"] == {"ray.io/cluster": "itpn"}
    command = shlex.split(manifest["spec"]["entrypoint"])
    assert command == ["python", "-m", "itpn_ray.cli", *argv]


def test_secrets_never_reach_a_manifest(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    config = SubmitConfig(kubernetes="itpn", env=("AWS_SECRET_ACCESS_KEY",))
    with pytest.raises(ConfigError, match="Secret") as caught:
        submit(config, ["pretrain", "nano"])
    assert "canary" not in str(caught.value)
