"""Where a run's parameters, metrics and files are tracked; light enough for the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from itpn_ray.errors import ConfigError
from itpn_ray.tracking.redact import redact

TrackerKind = Literal["mlflow", "none"]
_SCHEMES = (
    "http",
    "https",
    "sqlite",
    "postgresql",
    "mysql",
    "mssql",
    "postgresql+psycopg2",
    "mysql+pymysql",
    "databricks",
)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How a run is tracked.

    Args:
        kind: ``mlflow``, or ``none`` to track nothing besides the run folder itself.
        uri: an MLflow server (``http://host:5000``) or database (``sqlite:////path/mlflow.db``);
            empty means the embedded database ``mlflow.db`` beside the run folders.
        experiment: the MLflow experiment that groups the runs.
        register: a name under which MLflow's registry gets the trained network, as a model that
            answers for images; empty: it is not kept there.
    """

    kind: TrackerKind = "mlflow"
    uri: str = ""
    experiment: str = "itpn_ray"
    register: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(TrackerKind):
            raise ConfigError(
                "tracking.kind", self.kind, "unknown tracker", "Choose mlflow or none"
            )
        if self.register and self.kind != "mlflow":
            raise ConfigError(
                "tracking.register",
                self.register,
                f"needs MLflow, and tracking.kind is {self.kind}",
                "Use --tracking.kind mlflow, or leave it out",
            )
        if re.search(r"[/:.%\"'\n]", self.register):  # MLflow's own rule, and its addresses
            raise ConfigError(
                "tracking.register",
                self.register,
                "is no name of a model",
                "Leave out quotes and any of / : . %",
            )
        if not self.experiment.strip():
            raise ConfigError(
                "tracking.experiment", self.experiment, "empty", "Name the MLflow experiment"
            )
        scheme = re.match(r"([a-z][a-z0-9+]*):", self.uri)
        if self.uri and (scheme is None or scheme[1] not in _SCHEMES):
            raise ConfigError(
                "tracking.uri",
                redact(self.uri),
                "not the address of an MLflow server or database",
                "Give http(s)://host:port or sqlite:////path/mlflow.db, or leave it empty",
            )
