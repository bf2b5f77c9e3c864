import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import boto3
import pytest
from moto.server import ThreadedMotoServer

from itpn_ray.training.faults import FlakyServer


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_uri(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new bucket, with the environment set for it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
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
    """Put a server with the given faults in front of the S3 server, from then on."""
    with ExitStack() as stack:

        def start(**faults: float) -> FlakyServer:
            server = stack.enter_context(FlakyServer(s3_server, **faults))
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
            return server

        yield start
