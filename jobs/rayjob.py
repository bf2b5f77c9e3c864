"""A verb as a KubeRay RayJob: a cluster that comes with the run and goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from itpn_ray import checks
from itpn_ray.errors import ConfigError, told_by
from jobs.config import SubmitConfig

_QUEUE = "kueue.x-k8s.io/queue-name"


def rayjob(config: SubmitConfig, name: str, command: str) -> str:
    """Fill a manifest like clusters/kuberay/rayjob.yaml in, for ``kubectl apply -f -``.

    The manifest's image brings the code. Secrets come to its pods from Kubernetes.

    Args:
        config: names the manifest.
        name: the RayJob's name.
        command: what the job runs, for a shell.

    Raises:
        ConfigError: the manifest holds no RayJob, or environment variables were asked for.
    """
    if config.env:
        raise ConfigError(
            "submit.env",
            " ".join(config.env),
            "would stand in the manifest for everyone who can read it",
            "Put the values in the Secret that the pods read (clusters/README.md)",
        )
    documents = _read(config.kubernetes)
    for document in documents:
        if document["kind"] == "RayJob":
            document["metadata"]["name"] = name
            document["spec"]["entrypoint"] = command
            if config.queue:
                _queue(document, config)
    # Wide, so that no command is folded.
    return yaml.dump_all(documents, Dumper=_PlainDumper, sort_keys=False, width=1000)


def _queue(job: dict[str, Any], config: SubmitConfig) -> None:
    """Have Kueue start a RayJob: suspended, with a queue's name and a fixed number of machines.

    Kueue admits a job as a whole; a cluster that grows by itself would pass it by.

    Raises:
        ConfigError: the manifest has no such worker group; names the nearest.
    """
    job["metadata"].setdefault("labels", {})[_QUEUE] = config.queue
    # Kueue starts it once there is room for all of it.
    job["spec"]["suspend"] = True
    cluster = job["spec"]["rayClusterSpec"]
    # Kueue admits a fixed number of machines.
    cluster["enableInTreeAutoscaling"] = False
    cluster.pop("autoscalerOptions", None)
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    cluster["workerGroupSpecs"] = []
    for one in config.nodes:
        name, _, count = one.partition("=")
        checks.one_of("submit.nodes", name, groups)
        fixed = dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), int(count))
        cluster["workerGroupSpecs"].append(groups[name] | fixed)


def _read(path: str) -> list[dict[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            "submit.kubernetes",
            path,
            f"cannot be read ({told_by(error)})",
            "Give a manifest like clusters/kuberay/rayjob.yaml",
        ) from error
    kinds = [document.get("kind") for document in documents if isinstance(document, dict)]
    if kinds.count("RayJob") != 1 or len(kinds) != len(documents):
        raise ConfigError(
            "submit.kubernetes",
            path,
            "does not hold one RayJob",
            "Give a manifest like clusters/kuberay/rayjob.yaml",
        )
    return documents


class _PlainDumper(yaml.SafeDumper):
    """Writes what anchors share in full, where it is used."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
