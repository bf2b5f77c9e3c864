"""Which Ray a run uses and how much of this machine it may take. Imports no Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass

from itpn_ray import checks
from itpn_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Where Ray runs.

    Raises:
        ConfigError: a number is out of range, or one for a private Ray comes with an address.
    """

    address: str = ""
    """`host:port` of a running cluster, or `auto` for the one on this machine. Empty takes
    RAY_ADDRESS where it is set, as Ray does inside a submitted job, and otherwise starts a private
    Ray on this machine."""
    num_cpus: int | None = None
    """Logical CPUs of a private Ray: slots for workers and readers, not threads. None is the
    machine's cores but at least four, so that two cores have a slot for readers beside two
    training workers."""
    num_gpus: int | None = None
    """GPUs of a private Ray; None is all that are found."""
    object_store_gb: float = 1.0
    """Shared memory of a private Ray, in GB."""
    dashboard: bool = False
    """Whether a private Ray serves its dashboard and takes jobs, on 127.0.0.1."""
    health_check_interval_s: float = 0.5
    """Seconds between two looks at the training workers: how soon a dead one is noticed, and how
    long a report waits."""
    worker_start_timeout_s: float = 15.0
    """Seconds that a group of training workers waits for its places before one of another size is
    tried: for about 20 s after a node has left, Ray still counts on it."""

    resize_interval_s: float = 60.0
    """Seconds between two looks at whether a run with a range of workers could have more. Each
    change of size costs a restart from the last checkpoint."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether a cluster is named, whose machines may have other devices than this one."""
        return bool(self.address or os.environ.get("RAY_ADDRESS"))

    def __post_init__(self) -> None:
        if "://" in self.address:
            raise ConfigError(
                "ray.address",
                self.address,
                "is a URL, and a run joins a cluster as host:port",
                "Give host:port (6379 by default), or send the run as a job: "
                f"`itpn-ray submit --address {self.address} -- pretrain nano ...`",
            )
        if self.num_cpus is not None:
            checks.positive("ray.num_cpus", self.num_cpus)
        if self.num_gpus is not None:
            checks.not_negative("ray.num_gpus", self.num_gpus)
        for name in ("num_cpus", "num_gpus"):
            if self.address and getattr(self, name) is not None:
                raise ConfigError(
                    f"ray.{name}",
                    getattr(self, name),
                    f"has no effect, the cluster at {self.address} has its own count",
                    "Leave it out, or leave ray.address empty for a private Ray",
                )
        for name in (
            "object_store_gb",
            "health_check_interval_s",
            "worker_start_timeout_s",
            "resize_interval_s",
        ):
            checks.positive(f"ray.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Which machines of a cluster a run's workers are placed on.

    Raises:
        ConfigError: a value is out of range, or two contradict each other.
    """

    accelerator: str = ""
    """Kind of GPUs that workers are placed on, by Ray's name: H100, A100, L40S, L4. Needed where a
    cluster has several."""
    mixed_accelerators: bool = False
    """Let the workers of a run have GPUs of several kinds: all wait for the slowest."""
    spot_wait: float = 10.0
    """Minutes that workers wait for machines with the label market=spot before they take any; 0:
    they take any at once. A cluster without such a label, or whose machines do not come by
    themselves, is not waited for."""

    def __post_init__(self) -> None:
        checks.not_negative("spot_wait", self.spot_wait)
        if self.accelerator and self.mixed_accelerators:
            raise ConfigError(
                "mixed_accelerators",
                True,
                f"does not go with accelerator {self.accelerator}",
                "Leave one of the two out",
            )
