"""MLflow: one run a key, found again and continued after a restart, however it ended.

The server or database is reached through `MlflowClient` alone, so no global state of MLflow's
changes and several trackers live side by side. mlflow is imported when a run starts.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from itpn_ray.errors import ConfigError
from itpn_ray.tracking.base import DataSource, Parameters, RunStatus, Tracker
from itpn_ray.tracking.mlflow_model import log_model, log_source
from itpn_ray.tracking.redact import redact, redact_value
from itpn_ray.tracking.system import SystemSampler

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_log = logging.getLogger(__name__)

KEY_TAG = "itpn_ray.key"
_PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "mlflow.runName"
_LONGEST_PARAMETER = 6000
_MOST_PARAMETERS = 100
_MOST_METRICS = 1000
_RETRY_SECONDS = 30.0
_STATUS = {
    "FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "INTERRUPTED": "KILLED",
    "CAPPED": "KILLED",
}
"""How a run ended -> what MLflow calls it."""
_TEXT = {".json", ".jsonl", ".txt", ".log", ".csv", ".html", ".yaml", ".yml", ".md", ".py"}


class MlflowTracker(Tracker):
    """A run on an MLflow server or database.

    A server that stops answering while the run goes on never stops the run: its metrics wait in
    memory, one warning is logged, and they are sent when it answers again.

    Args:
        uri: tracking server or database.
        experiment: name of the experiment, made when it does not exist.
        artifacts: where a new experiment keeps its files; None leaves it to the server.
        system_interval: seconds between two samples of the machine; 0 takes none.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        *,
        artifacts: Path | None = None,
        system_interval: float = 10.0,
    ) -> None:
        self._uri = uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._interval = system_interval
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._waiting: list[Metric] = []
        self._last_step: dict[str, int] = {}
        self._retry_at = 0.0
        self._lock = threading.Lock()
        self._sampler: SystemSampler | None = None

    def start(
        self, run_name: str, params: Parameters, *, key: str, parent: str | None = None
    ) -> None:
        """Open the run of this key, or continue it; parameters that changed become tags."""
        _import_quietly()
        from mlflow import MlflowClient

        try:
            self._client = MlflowClient(tracking_uri=self._uri)
            experiment = self._experiment_id()
            run = self._find(experiment, key) or self._create(experiment, run_name, key, parent)
            self._run_id = run.info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            self._log_parameters(params, run)
        except ConfigError:
            raise
        except Exception as error:  # the database's driver, SQLAlchemy and alembic raise their own
            raise self._unusable(error) from error
        # A resumed run repeats steps since its last checkpoint; MLflow would draw them twice.
        self._last_step = {metric.key: metric.step for metric in run.data._metric_objs}
        if self._interval:
            self._sampler = SystemSampler(self._log_system, interval=self._interval)
            self._sampler.start()

    def _unusable(self, error: Exception) -> ConfigError:
        """What keeps MLflow from being used, with its first cause: a chain wraps the driver's."""
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        cause = (redact(str(first)) or type(first).__name__).splitlines()[0][:200]
        return ConfigError(
            "tracking.uri",
            redact(self._uri),
            f"MLflow cannot be used there ({cause})",
            _hint(cause),
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics; steps up to the last one recorded before are left as they are."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._lock:
            for name, value in metrics.items():
                if step > self._last_step.get(name, -1):
                    self._waiting.append(Metric(name, float(value), now, step))
                    self._last_step[name] = step
            if time.monotonic() >= self._retry_at:
                self._send()

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Copy a file into the run; a server that does not answer costs a warning."""
        from mlflow.exceptions import MlflowException

        source = Path(path)
        with tempfile.TemporaryDirectory() as scratch:
            if source.suffix in _TEXT:
                clean = Path(scratch) / source.name
                clean.write_text(redact(source.read_text()))
                shutil.copystat(source, clean)
                source = clean
            try:
                self._reach().log_artifact(self._run_id, str(source), folder or None)
            except (MlflowException, OSError) as error:
                _log.warning("MLflow did not take %s: %s", path, redact(str(error)))

    def log_source(self, command: str, data: DataSource) -> None:
        """Add data and source to the run; a server that does not answer costs a warning."""
        from mlflow.exceptions import MlflowException

        try:
            log_source(self._reach(), self._run_id, command, data)
        except MlflowException as error:
            _log.warning("MLflow did not take the run's data: %s", redact(str(error)))

    def log_model(self, weights: Path, name: str) -> None:
        """Register the network; a server that does not answer costs a warning."""
        from mlflow.exceptions import MlflowException

        try:
            log_model(self._reach(), self._run_id, weights, name)
        except (MlflowException, OSError) as error:
            _log.warning("MLflow did not register %s: %s", name, redact(str(error)))

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Send what waits and close the run."""
        from mlflow.exceptions import MlflowException

        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        with self._lock:
            self._send()
            if self._waiting:
                _log.warning(
                    "MLflow never took %d metrics; they are in the run folder's metrics.jsonl",
                    len(self._waiting),
                )
        try:
            self._reach().set_terminated(self._run_id, status=_STATUS[status])
        except MlflowException as error:
            _log.warning("MLflow did not close the run: %s", redact(str(error)))

    @property
    def where(self) -> str:
        """The command that shows the database, or the server's address."""
        if self._uri.startswith("http"):
            return redact(self._uri)
        return f"mlflow ui --backend-store-uri {redact(self._uri)}"

    def _reach(self) -> MlflowClient:
        if self._client is None:
            raise RuntimeError("start() comes before anything else is tracked")
        return self._client

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        client = self._reach()
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            place = self._artifacts.absolute().as_uri() if self._artifacts else None
            try:
                return client.create_experiment(self._experiment, artifact_location=place)
            except MlflowException:
                # Another process may have made it in between; anything else is raised again.
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _find(self, experiment: str, key: str) -> Run | None:
        # MLflow's filters know no escapes.
        quote = '"' if "'" in key else "'"
        runs = self._reach().search_runs(
            [experiment],
            filter_string=f"tags.`{KEY_TAG}` = {quote}{key}{quote}",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return runs[0] if runs else None

    def _create(self, experiment: str, run_name: str, key: str, parent: str | None) -> Run:
        tags = {KEY_TAG: key, _NAME_TAG: run_name}
        if parent is not None:
            outer = self._find(experiment, parent)
            if outer is None:
                raise ConfigError(
                    "tracking parent", parent, "no such run", "Start the outer run first"
                )
            tags[_PARENT_TAG] = outer.info.run_id
        return self._reach().create_run(experiment, tags=tags)

    def _log_parameters(self, params: Parameters, run: Run) -> None:
        from mlflow.entities import Param, RunTag

        known = run.data.params
        # Servers refuse what is longer.
        shown = {n: redact_value(n, v)[:_LONGEST_PARAMETER] for n, v in params.items()}
        new = [Param(n, v) for n, v in shown.items() if n not in known]
        # MLflow never changes a parameter, so what a resumed run does differently is a tag.
        changed = [RunTag(f"changed.{n}", v) for n, v in shown.items() if known.get(n, v) != v]
        client = self._reach()
        for first in range(0, len(new), _MOST_PARAMETERS):
            client.log_batch(run.info.run_id, params=new[first : first + _MOST_PARAMETERS])
        if changed:
            client.log_batch(run.info.run_id, tags=changed)

    def _log_system(self, metrics: dict[str, float]) -> None:
        step = 1 + max((s for n, s in self._last_step.items() if n in metrics), default=-1)
        self.log_metrics(metrics, step)

    def _send(self) -> None:
        """Send what waits, or leave it waiting; the caller holds the lock."""
        from mlflow.exceptions import MlflowException

        while self._waiting:
            batch = self._waiting[:_MOST_METRICS]
            try:
                self._reach().log_batch(self._run_id, metrics=batch)
            except MlflowException as error:
                # A defect of ours, which waiting does not mend.
                if error.error_code == "INVALID_PARAMETER_VALUE":
                    raise
                if self._retry_at == 0.0:
                    _log.warning("MLflow does not answer, metrics wait: %s", redact(str(error)))
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                return
            del self._waiting[: len(batch)]
            self._retry_at = 0.0


def _hint(cause: str) -> str:
    """What can be done about the first cause of a failure."""
    hints = {
        "No module named": "Install the database's driver in this environment",
        "is locked": "End the program that holds the database open, and repeat the command",
        "not a database": "Restore it, move it away, or name another one with --tracking.uri",
        "malformed": "Restore it, move it away, or name another one with --tracking.uri",
    }
    usual = "Check the address and that it is running and writable, or leave it empty"
    return next((hint for sign, hint in hints.items() if sign in cause), usual)


def _import_quietly() -> None:
    """Import mlflow: no telemetry, short waits, no word on its database's tables."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow  # noqa: F401

    # Not before: older versions set up their loggers on import, and undo what was set.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking._tracking_service.client"):
        logging.getLogger(name).setLevel(logging.WARNING)
