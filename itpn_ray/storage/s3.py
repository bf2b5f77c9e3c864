"""S3 and everything that speaks its protocol, through boto3 (objects) and pyarrow (data).

boto3 with ten retries brings every object through a server that refuses three requests in ten;
pyarrow's own client loses a quarter of them, so it serves for reading data only.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)

from itpn_ray.errors import ConfigError
from itpn_ray.storage.base import ObjectStore, check_key

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

# S3's own rule for names.
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]$", re.IGNORECASE)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_TRANSFER = TransferConfig(
    multipart_chunksize=16 << 20, max_concurrency=8, num_download_attempts=10
)
# Too many requests, and what servers answer when they are busy or restarting.
_TRY_AGAIN = {429, 500, 502, 503, 504}
_TRY_AGAIN_CODES = {"RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling"}
# No connection, no answer in time, or one that broke off; not what asking again cannot change, such
# as a certificate that is not trusted.
_LOST = (HTTPClientError, EndpointConnectionError, ConnectTimeoutError)
_PATIENT, _BRIEF = 25, 4  # attempts


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the S3 server is: ``url`` is ``None`` for AWS itself."""

    url: str | None
    region: str | None

    @classmethod
    def from_environment(cls) -> Endpoint:
        """Read ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``.

        Raises:
            ConfigError: an endpoint that is no http(s) address, or plain http to another machine
                (``ITPN_RAY_S3_ALLOW_HTTP=1`` permits it inside a closed network).
        """
        name = next((n for n in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.getenv(n)), None)
        region = os.getenv("AWS_REGION") or os.getenv("AWS_DEFAULT_REGION")
        if name is None:
            return cls(url=None, region=region)
        url = os.environ[name]
        parts = urlsplit(url)
        # An "@" would come with a password, which no message may show.
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(name, None, "is no http(s) address", "Set it like https://host:9000")
        allowed = parts.hostname in _LOOPBACK or os.getenv("ITPN_RAY_S3_ALLOW_HTTP") == "1"
        if parts.scheme == "http" and not allowed:
            raise ConfigError(
                name,
                url,
                "sends data unencrypted to another machine",
                "Use https, or set ITPN_RAY_S3_ALLOW_HTTP=1 in a closed network",
            )
        # Servers other than AWS take any region; signatures need one.
        return cls(url=url, region=region or "us-east-1")


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/prefix`` as ``("bucket", "some/prefix")``.

    Raises:
        ConfigError: no bucket, or something that looks like credentials (never shown).
    """
    bucket, _, prefix = uri[len("s3://") :].partition("/")
    if "@" in bucket or ":" in bucket or "?" in prefix:
        raise ConfigError(
            "S3 URI", None, "carries credentials or options", "Give them by the environment"
        )
    if not _BUCKET.match(bucket):
        raise ConfigError("S3 URI", uri, "names no bucket", "Write s3://bucket/prefix")
    prefix = prefix.strip("/")
    if prefix:
        check_key(prefix)
    return bucket, prefix


@functools.cache
def _has_credentials() -> bool:
    # Asks the environment, the AWS files and, on a cloud machine, its instance role.
    return Session().get_credentials() is not None


def _anonymous() -> bool:
    return not os.getenv("AWS_ACCESS_KEY_ID") and not _has_credentials()


def filesystem(uri: str) -> tuple[S3FileSystem, str]:
    """See `itpn_ray.storage.filesystem`."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    bucket, prefix = split(uri)
    endpoint = Endpoint.from_environment()
    options: dict[str, Any] = {"region": endpoint.region}
    if endpoint.url:
        parts = urlsplit(endpoint.url)
        options |= {"endpoint_override": parts.netloc + parts.path, "scheme": parts.scheme}
    elif endpoint.region is None:
        try:
            options["region"] = resolve_s3_region(bucket)
        except OSError as error:
            raise ConfigError(
                "S3 URI", uri, f"its region was not found: {error}", "Set AWS_REGION"
            ) from error
    found = S3FileSystem(
        anonymous=_anonymous(),
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=10),
        **options,
    )
    return found, f"{bucket}/{prefix}".rstrip("/")


def _client(patient: bool) -> Any:
    endpoint = Endpoint.from_environment()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # see _retry
        # A check is waited for by a person.
        connect_timeout=10 if patient else 3,
        read_timeout=60 if patient else 5,
        max_pool_connections=16,
        # Servers other than AWS seldom have a host name per bucket.
        s3={"addressing_style": "path" if endpoint.url else "auto"},
        **({"signature_version": UNSIGNED} if _anonymous() else {}),
    )
    session = Session(region_name=endpoint.region)
    client = session.client("s3", endpoint_url=endpoint.url, config=config)
    client.meta.events.register("needs-retry.s3", _retry if patient else _retry_briefly)
    return client


def _retry(
    attempts: int,
    response: Any,
    caught_exception: Exception | None,
    limit: int = _PATIENT,
    **_: Any,
) -> float | None:
    """Seconds to wait before a failed request is sent again; ``None``: it stays failed.

    The rule is boto3's own standard one but for its allowance, 100 retries a client, which a
    server that refuses a third of all requests uses up within minutes, and for the number of
    attempts: with 25 all waits together take 200 s in the mean and 411 s at most, so that a server
    or a network that is away for a minute costs no more than that minute.
    """
    refused = response is not None and (
        response[0].status_code in _TRY_AGAIN
        or response[1].get("Error", {}).get("Code") in _TRY_AGAIN_CODES
    )
    lost = isinstance(caught_exception, _LOST)
    if attempts >= limit or not (refused or lost):
        return None
    # Full jitter: workers that were refused together do not come back together.
    return random.random() * min(2 ** (attempts - 1), 20)


def _retry_briefly(**request: Any) -> float | None:
    return _retry(**request, limit=_BRIEF)


@contextmanager
def _errors_of(uri: str) -> Iterator[None]:
    """Turn boto3's errors into the ``OSError`` that a local store would raise."""
    try:
        yield
    except ClientError as error:
        answer = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        # A head request has no body, so that its code is the bare status.
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(f"{uri}: no such object") from error
        if status in (401, 403):
            raise PermissionError(f"{uri}: access denied ({code})") from error
        raise OSError(f"{uri}: {error}") from error
    except _LOST as error:
        raise OSError(f"{uri}: no answer, in spite of retries ({error})") from error
    except (BotoCoreError, Boto3Error) as error:
        raise OSError(f"{uri}: {error}") from error


class S3Store(ObjectStore):
    """Objects under ``s3://bucket/prefix``.

    Args:
        uri: bucket and prefix.
        patient: ride out minutes of refusals; ``False`` answers within seconds, for a check.
    """

    def __init__(self, uri: str, *, patient: bool = True) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, self.prefix = split(uri)
        self._s3 = _client(patient)

    def put_file(self, source: Path, key: str, *, move: bool = False) -> None:
        """See `ObjectStore.put_file`; large files go in parts, and appear when all are there."""
        with _errors_of(f"{self.uri}/{key}"):
            self._s3.upload_file(str(source), self.bucket, self._key(key), Config=_TRANSFER)
        if move:
            source.unlink()

    def get_file(self, key: str, target: Path) -> None:
        """See `ObjectStore.get_file`."""
        with _errors_of(f"{self.uri}/{key}"):
            self._s3.download_file(self.bucket, self._key(key), str(target), Config=_TRANSFER)

    def read_bytes(self, key: str) -> bytes:
        """See `ObjectStore.read_bytes`; unlike a plain get, an answer cut short is asked again."""
        content = io.BytesIO()
        with _errors_of(f"{self.uri}/{key}"):
            self._s3.download_fileobj(self.bucket, self._key(key), content, Config=_TRANSFER)
        return content.getvalue()

    def write_bytes(self, key: str, data: bytes) -> None:
        """See `ObjectStore.write_bytes`."""
        with _errors_of(f"{self.uri}/{key}"):
            self._s3.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; needs a server that knows conditional writes."""
        with _errors_of(f"{self.uri}/{key}"):
            try:
                self._s3.put_object(
                    Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*"
                )
            except ClientError as error:
                # 412: it is there. 409: another conditional write of it is under way.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                    return False
                raise
        return True

    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        try:
            with _errors_of(f"{self.uri}/{key}"):
                self._s3.head_object(Bucket=self.bucket, Key=self._key(key))
        except FileNotFoundError:
            return False
        return True

    def age(self, key: str) -> float:
        """See `ObjectStore.age`; to the second, as S3 tells times."""
        with _errors_of(f"{self.uri}/{key}"):
            found = self._s3.head_object(Bucket=self.bucket, Key=self._key(key))
        # The server's own clock, by which the object was stamped too.
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max(0.0, (now - found["LastModified"]).total_seconds())

    def list(self, prefix: str = "") -> list[str]:
        """See `ObjectStore.list`."""
        root = f"{self.prefix}/" if self.prefix else ""
        with _errors_of(f"{self.uri}/{prefix}"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=root + prefix
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(root) for key in keys)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with _errors_of(f"{self.uri}/{key}"):
            self._s3.delete_object(Bucket=self.bucket, Key=self._key(key))

    def digest(self, key: str) -> tuple[int, str]:
        """See `ObjectStore.digest`; takes the object's size on the disk for a moment."""
        # A nameless file rather than a stream: parts then arrive side by side, and one that broke
        # off is written again in its place.
        with tempfile.TemporaryFile() as copy:
            with _errors_of(f"{self.uri}/{key}"):
                self._s3.download_fileobj(self.bucket, self._key(key), copy, Config=_TRANSFER)
            copy.seek(0)
            found = hashlib.file_digest(copy, "sha256").hexdigest()
            return copy.tell(), found

    def point(self, name: str, target: str) -> None:
        """See `ObjectStore.point`: a small object with the target's name."""
        self.write_bytes(name, check_key(target).encode() + b"\n")

    def pointed(self, name: str) -> str | None:
        """See `ObjectStore.pointed`."""
        try:
            return self.read_bytes(name).decode().strip()
        except FileNotFoundError:
            return None

    def _key(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key
