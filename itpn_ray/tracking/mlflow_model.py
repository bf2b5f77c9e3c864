"""What MLflow keeps of a run beside metrics: its data, its source, its network as a model."""

from __future__ import annotations

import json
import subprocess
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from itpn_ray.tracking.base import DataSource
from itpn_ray.tracking.redact import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOADER = "itpn_ray.tasks.serving"
"""The module that MLflow loads a model with."""
MODEL = "model"
_LONGEST_DIGEST = 36
_PIXEL = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x00\x00\x00\x00\x00,"
    b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""The smallest image: an example of the input."""


def log_source(client: MlflowClient, run_id: str, command: str, data: DataSource) -> None:
    """Add the data set as an input of the run, and its source as MLflow's own tags.

    Raises:
        MlflowException: the server does not answer.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

    uri = redact(data.uri)
    dataset = Dataset(
        name=uri.rstrip("/").rpartition("/")[2],
        digest=data.digest[:_LONGEST_DIGEST],
        source_type="s3" if "://" in uri else "local",
        source=json.dumps({"uri": uri}),
        profile=json.dumps({"sha256": data.digest, "images": dict(data.images)}),
    )
    training = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(dataset, [training])])
    tags = {"mlflow.source.name": redact(command), "mlflow.source.type": "LOCAL"}
    if commit := package_commit():
        tags["mlflow.source.git.commit"] = commit
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def package_commit() -> str:
    """The commit that this package is checked out at; empty where it is no checkout."""
    # The first of the two is refused where the file is not tracked, as in an environment that lies
    # inside another repository.
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", f"HEAD:./{Path(__file__).name}"]
    try:
        done = subprocess.run([*asked, "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.split()[-1]


def log_model(client: MlflowClient, run_id: str, weights: Path, name: str) -> None:
    """Keep the network in the run as a model, and register it as a new version of a name.

    Its input is a table with a column ``image``, the bytes of image files; in JSON they are base64.

    Raises:
        MlflowException: the server does not answer.
    """
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / MODEL
        _save(folder, weights)
        client.log_artifacts(run_id, str(folder), MODEL)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    uri = client.get_run(run_id).info.artifact_uri
    client.create_model_version(name, source=f"{uri}/{MODEL}", run_id=run_id)


def _save(folder: Path, weights: Path) -> None:
    """Write the network as a model of MLflow's, with a signature and an example of the input."""
    import pandas

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what MLflow's own code does
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import ColSpec, DataType, Schema

        save_model(
            folder,
            loader_module=LOADER,
            data_path=str(weights),
            signature=ModelSignature(inputs=Schema([ColSpec(DataType.binary, "image")])),
            input_example=pandas.DataFrame({"image": [_PIXEL]}),
            pip_requirements=[f"itpn-ray=={version('itpn-ray')}"],
        )
