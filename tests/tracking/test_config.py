import subprocess
import sys

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.tracking import NoopTracker, TrackingConfig, create_tracker, tracking_uri


def test_the_embedded_database_lies_beside_the_run_folders(tmp_path) -> None:
    assert tracking_uri(TrackingConfig(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(TrackingConfig(uri="http://h:5000"), tmp_path) == "http://h:5000"


def test_kind_none_tracks_nothing(tmp_path) -> None:
    assert isinstance(create_tracker(TrackingConfig(kind="none"), tmp_path), NoopTracker)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "wandb"), ("uri", "host5000"), ("uri", "file:///x"), ("experiment", " ")],
)
def test_bad_values_name_the_field(field: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"tracking.{field}"):
        TrackingConfig(**{field: value})


def test_a_bad_address_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        TrackingConfig(uri="ftp://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_the_config_is_light() -> None:
    code = (
        "import sys, itpn_ray.tracking.config, itpn_ray.terminal.console\n"
        "heavy = {'torch', 'mlflow', 'ray', 'rich', 'psutil'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
