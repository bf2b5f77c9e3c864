"""A verb as a KubeRay RayJob on a cluster that stands (clusters/kuberay/raycluster.yaml)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import yaml

from itpn_ray.errors import ConfigError
from jobs.config import SubmitConfig


def rayjob(config: SubmitConfig, name: str, argv: Sequence[str]) -> str:
    """Render the manifest, for ``kubectl apply -f -``.

    The image of the cluster brings the code. Secrets come to its pods from Kubernetes, never
    through a manifest.

    Args:
        config: names the KubeRay cluster.
        name: the RayJob's name.
        argv: the verb and its options, as they would stand after ``itpn-ray``.

    Raises:
        ConfigError: environment variables were asked for.
    """
    if config.env:
        raise ConfigError(
            "submit.env",
            " ".join(config.env),
            "a manifest would show the values to everyone who can read it",
            "Put them in the Secret that the cluster's pods read (clusters/README.md)",
        )
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "itpn-ray"}},
        "spec": {
            "entrypoint": shlex.join([config.python, "-m", "itpn_ray.cli", *argv]),
            "clusterSelector": {"ray.io/cluster": config.kubernetes},
            "submissionMode": "K8sJobMode",
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False, width=1000)
