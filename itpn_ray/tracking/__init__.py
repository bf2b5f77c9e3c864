"""Tracking: what a run's parameters, metrics and files are recorded in."""

from __future__ import annotations

from pathlib import Path

from itpn_ray.errors import ConfigError
from itpn_ray.tracking.base import MemoryRun, MemoryTracker, NoopTracker, Tracker, flatten
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.tracking.redact import redact, redact_value

__all__ = [
    "MemoryRun",
    "MemoryTracker",
    "NoopTracker",
    "Tracker",
    "TrackingConfig",
    "create_tracker",
    "flatten",
    "redact",
    "redact_value",
    "tracking_uri",
]


def tracking_uri(config: TrackingConfig, out: str | Path) -> str:
    """The address that a config means: its own, or the embedded database under ``out``.

    Raises:
        ConfigError: runs are kept under a URI, where the embedded database cannot lie.
    """
    if not config.uri and "://" in str(out):
        raise ConfigError(
            "tracking.uri",
            None,
            f"has no folder for the embedded database, as runs are kept under {out}",
            "Give --tracking.uri http://HOST:PORT of an MLflow server, or --tracking.kind none",
        )
    return config.uri or f"sqlite:///{Path(out).absolute() / 'mlflow.db'}"


def create_tracker(config: TrackingConfig, out: str | Path) -> Tracker:
    """The tracker of a config.

    Args:
        config: what to track with.
        out: the folder that holds the run folders; the embedded database and its artifacts live
            there, as ``mlflow.db`` and ``mlartifacts/``.

    Raises:
        ConfigError: the folder of the artifacts cannot be written.
    """
    if config.kind == "none":
        return NoopTracker()
    from itpn_ray.tracking.mlflow import MlflowTracker

    uri = tracking_uri(config, out)
    embedded = uri.startswith("sqlite")
    artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" if embedded else None
    if artifacts is not None:
        try:
            artifacts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "tracking.uri",
                redact(uri),
                f"its folder cannot be written ({error.strerror})",
                "Name a database in a folder that can be, or use --tracking.kind none",
            ) from error
    return MlflowTracker(uri, config.experiment, artifacts=artifacts)
