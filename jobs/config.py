"""Which cluster a job goes to and what goes with it. Imports no Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray import checks
from itpn_ray.errors import ConfigError

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Kubernetes takes a DNS label as an object's name, and what it takes Ray takes too.
_JOB_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Where a verb runs as a job.

    Raises:
        ConfigError: a field has a form that cannot be used.
    """

    job: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="JOB_FILE")] = ""
    """A job file such as jobs/chain.yaml, in place of a verb."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE of a job file's values, or STEP.OPTION=VALUE of a step's options; as often as is
    needed."""
    address: str = ""
    """URL of the cluster's job server, which is its dashboard's: http://127.0.0.1:8265 for a head
    on this machine or behind a tunnel."""
    kubernetes: str = ""
    """A RayJob manifest, in place of an address (clusters/kuberay/rayjob.yaml): it is printed with
    the verb in it, for `kubectl apply -f -`, and nothing is sent."""
    queue: str = ""
    """Local queue of Kueue that a RayJob waits in: it starts suspended, and once there is room for
    all of its machines. Needs --kubernetes and --nodes."""
    nodes: tuple[str, ...] = ()
    """GROUP=N of a queued RayJob: how many machines of a worker group it has, for a queue admits a
    whole job and no autoscaling. Other groups are left out."""
    name: str = ""
    """The job's name; empty makes one of the verb and the time."""
    env: tuple[str, ...] = ()
    """Names of environment variables to hand on with the values that they have here. Whoever holds
    the cluster's token can read them; rights that the machines carry are safer."""
    python: str = "python"
    """The Python interpreter on the cluster."""
    follow: bool = True
    """Print the job's log until it ends; otherwise leave once the job is taken."""
    connect_timeout_s: float = 30.0
    """Seconds to keep trying while the cluster does not answer."""

    def __post_init__(self) -> None:
        if bool(self.address) == bool(self.kubernetes):
            raise ConfigError(
                "submit.address",
                self.address,
                "does not name the one cluster that a job goes to",
                "Give --address http://HOST:8265 or --kubernetes MANIFEST, one of the two",
            )
        if self.address and not self.address.startswith(("http://", "https://")):
            raise ConfigError(
                "submit.address",
                self.address,
                "is not the URL of the cluster's dashboard",
                f"Give it as http://{self.address.rpartition('://')[2]}; its usual port is 8265",
            )
        if self.name and not _JOB_NAME.fullmatch(self.name):
            raise ConfigError(
                "submit.name",
                self.name,
                "is not a name that Kubernetes and Ray take",
                "Use up to 47 small letters, digits and dashes, a letter first",
            )
        self._check_queue()
        for name in self.env:
            if not _ENV_NAME.fullmatch(name):
                raise ConfigError(
                    "submit.env",
                    name.partition("=")[0],
                    "must be the name of an environment variable, never its value",
                    "Export the variable and give its name",
                )
        if self.set and not self.job:
            raise ConfigError(
                "submit.set", self.set, "changes a job file, and none is named", "Name one first"
            )
        checks.positive("submit.connect_timeout_s", self.connect_timeout_s)

    def _check_queue(self) -> None:
        if bool(self.queue) != bool(self.nodes) or (self.queue and not self.kubernetes):
            raise ConfigError(
                "submit.queue",
                self.queue,
                "goes with a manifest and the machines that the job has",
                "Give --kubernetes MANIFEST --queue QUEUE --nodes GROUP=N, all three",
            )
        for group in self.nodes:
            if not re.fullmatch(r"[a-z0-9-]+=[1-9]\d*", group):
                raise ConfigError(
                    "submit.nodes", group, "is no GROUP=N", "Write --nodes gpu-spot=4"
                )
