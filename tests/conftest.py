"""What every test may lean on: small thread pools, one Ray cluster, an S3 server.

Heavy modules are imported by the fixtures that need them, so that a light test stays light.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

# Before anything imports NumPy or torch: two cores are shared by every process of a test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The cluster, token and cloud keys of whoever runs the tests must not reach them.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
for _name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
    os.environ.pop(_name, None)
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "token-of-the-tests-0123456789abcdef"

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The same examples in every run, and no time limit that a busy machine would miss.
settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")

if TYPE_CHECKING:
    from itpn_ray.commands.chaos.faults import FlakyServer


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores, to fill the waits of tests under Ray, up to what memory is there for."""
    return min(4, (os.cpu_count() or 1) + 1)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests under Ray, and begin with them: they are the longest, so that others help out.

    Those that start a head of their own come after those that look at what the private Ray runs.
    """
    for item in items:
        if {"ray_cluster", "head"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.workers)
    items.sort(
        key=lambda item: (
            "ray_cluster" not in getattr(item, "fixturenames", ()),
            item.get_closest_marker("workers") is None,
        )
    )


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """What sets the number of threads, as a training does, does not set it for later tests."""
    yield
    # Where somebody asks for other threads than the tests' own, none are put back.
    if "torch" in sys.modules and os.environ["OMP_NUM_THREADS"] == "1":
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Python's own answers to signals: shells have jobs in the background ignore Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    former = {number: signal.signal(number, answer) for number, answer in usual.items()}
    yield
    for number, answer in former.items():
        signal.signal(number, answer)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One private Ray for all tests that need one; the value is its address."""
    from itpn_ray.ray_runtime.config import RayConfig
    from itpn_ray.ray_runtime.start import start_ray

    config = RayConfig(num_cpus=4, num_gpus=0, object_store_gb=0.3, health_check_interval_s=0.1)
    with start_ray(config) as address:
        yield address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in a process of its own."""
    from tests.s3 import start_s3

    with start_s3() as address:
        yield address


@pytest.fixture
def s3_uri(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new bucket, with the environment set for it."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-key")
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture
def flaky_s3(
    s3_uri: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FlakyServer]]:
    """Put a server with the given faults in front of the S3 server, from then on.

    Clients wait a tenth as long before they ask again.
    """
    from itpn_ray.commands.chaos.faults import FlakyServer
    from itpn_ray.storage import s3

    drawn = random.Random(0)
    monkeypatch.setattr(s3, "random", SimpleNamespace(random=lambda: drawn.random() / 10))

    with ExitStack() as stack:

        def start(**faults: float) -> FlakyServer:
            server = stack.enter_context(FlakyServer(s3_server, **faults))
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
            return server

        yield start


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small prepared data set of the embedded images: 64 to train on, 30 held out."""
    from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
    from itpn_ray.data.prepare.driver import prepare
    from itpn_ray.data.synthetic.layouts import generate

    folder = tmp_path_factory.mktemp("prepared")
    images, shards = str(folder / "images"), str(folder / "shards")
    generate(SynthesizeConfig(out=images, train=64, val=30, side=40, num_workers=0))
    prepare(PrepareConfig(source=images, out=shards, num_workers=0))
    return shards


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared images with boxes, masks and crowds: 8 to train on, 5 held out."""
    from tests.data.made_objects import write_scenes

    return write_scenes(tmp_path_factory.mktemp("scenes"), train=8, val=5)


@pytest.fixture(scope="session")
def turned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared tiles with turned boxes: of 6 images to train on, and of 3 held out."""
    from tests.data.made_dota import write_turned

    return write_turned(tmp_path_factory.mktemp("turned"), train=6, val=3)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared images with masks of eleven classes: 8 to train on, 5 held out."""
    from tests.data.made_masks import write_masked

    return write_masked(tmp_path_factory.mktemp("masked"), train=8, val=5)
