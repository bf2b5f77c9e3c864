"""Which Ray a run uses and how much of this machine it may take. Imports no Ray."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Where Ray runs.

    Attributes:
        address: ``host:port`` of a running cluster, or ``auto`` for the one on this machine; empty
            takes ``RAY_ADDRESS`` where it is set (inside a submitted job Ray sets it) and starts a
            private Ray on this machine otherwise.
        num_cpus: logical CPUs of a private Ray: slots for workers and readers, not threads.
            ``None`` is the machine's cores, but at least four, so that a two-core laptop has a
            slot for the readers beside two training workers.
        num_gpus: GPUs of a private Ray; ``None`` is all that are found.
        object_store_gb: shared memory of a private Ray, in GB.
        dashboard: whether a private Ray serves its dashboard, on 127.0.0.1.
        health_check_interval_s: seconds between two looks at the training workers: how soon a dead
            one is noticed, and how long a report waits.
        worker_start_timeout_s: seconds a group of training workers waits for its places before a
            group of another size is tried; nodes that left stay in Ray's accounts for about 20 s.

    Raises:
        ConfigError: if a number is out of range, or a number for a private Ray comes with an
            address.
    """

    address: str = ""
    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_gb: float = 1.0
    dashboard: bool = False
    health_check_interval_s: float = 0.5
    worker_start_timeout_s: float = 15.0

    def __post_init__(self) -> None:
        if "://" in self.address:
            raise ConfigError(
                "ray.address",
                self.address,
                "this is a URL, and a run joins a cluster as host:port",
                "Give host:port (6379 by default), or send the run as a job: "
                f"itpn-ray submit --address {self.address} -- ...",
            )
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ConfigError("ray.num_cpus", self.num_cpus, "a run needs a CPU", "Give 1 or more")
        if self.num_gpus is not None and self.num_gpus < 0:
            raise ConfigError("ray.num_gpus", self.num_gpus, "below zero", "Give 0 or more")
        for name in ("num_cpus", "num_gpus"):
            if self.address and getattr(self, name) is not None:
                raise ConfigError(
                    f"ray.{name}",
                    getattr(self, name),
                    f"the cluster at {self.address} has its own count",
                    "Leave it out, or leave ray.address empty for a private Ray",
                )
        for name in ("object_store_gb", "health_check_interval_s", "worker_start_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"ray.{name}", getattr(self, name), "not positive", "Give a number above 0"
                )
