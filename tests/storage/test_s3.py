import hashlib
import random
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)

from itpn_ray.errors import ConfigError, DataError
from itpn_ray.storage import open_store, s3


@pytest.mark.parametrize("prefix", ["", "/some/prefix"])
def test_objects_come_back_are_listed_and_go(s3_uri, tmp_path, prefix):
    store = open_store(s3_uri + prefix)
    assert store.list() == []
    store.write_bytes("a/b.bin", b"two")
    (tmp_path / "source").write_bytes(b"three")
    store.put_file(tmp_path / "source", "a/c.bin")
    store.put_file(tmp_path / "source", "d.bin", move=True)
    assert not (tmp_path / "source").exists()
    assert store.list() == ["a/b.bin", "a/c.bin", "d.bin"]
    assert store.list("a/c") == ["a/c.bin"]
    assert [store.read_bytes(key) for key in store.list()] == [b"two", b"three", b"three"]
    assert store.digest("a/c.bin") == (5, hashlib.sha256(b"three").hexdigest())
    store.get_file("d.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"three"
    for key in ("a/b.bin", "a/b.bin"):
        store.delete(key)
    assert not store.exists("a/b.bin")
    assert store.exists("a/c.bin")
    assert store.local_path("a/c.bin") is None
    assert store.pointed("last") is None
    store.point("last", "a")
    assert store.pointed("last") == "a"


def test_large_objects_go_and_come_in_parts(s3_uri, tmp_path, monkeypatch):
    monkeypatch.setattr(
        s3, "_TRANSFER", TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    )
    content = random.Random(0).randbytes(12 << 20)
    (tmp_path / "source").write_bytes(content)
    store = open_store(s3_uri)
    store.put_file(tmp_path / "source", "large")
    assert store.digest("large") == (len(content), hashlib.sha256(content).hexdigest())
    store.get_file("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_missing_objects_buckets_and_rights_are_os_errors(s3_uri, tmp_path):
    store = open_store(s3_uri)
    for ask in (store.read_bytes, store.digest, lambda key: store.get_file(key, tmp_path / "x")):
        with pytest.raises(FileNotFoundError):
            ask("none")
    with pytest.raises(OSError, match="NoSuchBucket"):
        open_store("s3://there-is-no-such-bucket").write_bytes("key", b"")
    with pytest.raises(DataError):
        store.write_bytes("../other", b"")


def test_thirty_percent_refused_and_every_object_arrives(flaky_s3, s3_uri, tmp_path, monkeypatch):
    server = flaky_s3(refuse=0.3)
    monkeypatch.setattr(s3.random, "random", lambda: 0.05)  # short pauses
    store = open_store(s3_uri)

    def there_and_back(i):
        content = hashlib.sha256(b"%d" % i).digest() * 100
        source, copy = tmp_path / f"{i}", tmp_path / f"{i}-copy"
        source.write_bytes(content)
        store.put_file(source, f"object-{i:03d}")
        store.get_file(f"object-{i:03d}", copy)
        return copy.read_bytes() == content

    with ThreadPoolExecutor(16) as pool:
        arrived = list(pool.map(there_and_back, range(100)))
    assert arrived == [True] * 100
    assert store.list() == [f"object-{i:03d}" for i in range(100)]
    assert 0.2 < server.counts["refused"] / server.counts.total() < 0.4


def test_the_retries_of_a_client_are_not_used_up(flaky_s3, s3_uri, monkeypatch):
    server = flaky_s3(refuse=0.5)
    monkeypatch.setattr(s3.random, "random", lambda: 0.0)  # no pauses
    store = open_store(s3_uri)
    for i in range(120):
        store.write_bytes("key", b"%d" % i)
    assert store.read_bytes("key") == b"119"
    assert server.counts["refused"] > 100


@pytest.mark.parametrize("away", ["refused", "unreachable"])
def test_a_server_that_is_away_is_waited_for_and_told_where_it_does_not_come_back(
    s3_uri, monkeypatch, away
):
    waits = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    host = address if away == "refused" else "no-such-host.invalid:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}")
    monkeypatch.setenv("ITPN_RAY_S3_ALLOW_HTTP", "1")
    monkeypatch.setattr(s3.random, "random", lambda: waits.append(1) or 0.0)  # no pauses
    with pytest.raises(OSError, match=rf"{s3_uri}/key: no answer, in spite of retries .*{host}"):
        open_store(s3_uri).write_bytes("key", b"")
    assert len(waits) == 24


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://host"),
        ConnectTimeoutError(endpoint_url="http://host"),
        ReadTimeoutError(endpoint_url="http://host"),
        ConnectionClosedError(endpoint_url="http://host"),
    ],
)
def test_whatever_keeps_an_answer_away_is_tried_again_for_a_while(error):
    assert s3._retry(1, None, error) is not None
    assert s3._retry(24, None, error) is not None
    assert s3._retry(25, None, error) is None


def test_a_certificate_that_is_not_trusted_is_told_at_once():
    assert s3._retry(1, None, SSLError(endpoint_url="https://host", error="untrusted")) is None


@pytest.mark.parametrize("code", ["SlowDown", "RequestTimeout", "Throttling"])
def test_a_busy_server_is_asked_again(code):
    answer = (SimpleNamespace(status_code=400), {"Error": {"Code": code}})
    assert s3._retry(1, answer, None) is not None


def test_a_request_that_is_wrong_is_not_tried_again(flaky_s3, s3_uri):
    server = flaky_s3()
    with pytest.raises(FileNotFoundError):
        open_store(s3_uri).read_bytes("none")
    assert server.counts["passed"] == 1


def test_answers_that_break_off_are_asked_again(flaky_s3, s3_uri):
    server = flaky_s3(cut=0.3)
    store = open_store(s3_uri)
    contents = {f"object-{i:02d}": b"%d" % i * 1000 for i in range(20)}
    for key, content in contents.items():
        store.write_bytes(key, content)
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(contents, pool.map(store.read_bytes, contents), strict=True))
        digests = list(pool.map(store.digest, contents))
    assert found == contents
    assert digests == [(len(c), hashlib.sha256(c).hexdigest()) for c in contents.values()]
    assert store.list() == list(contents)
    assert server.counts["cut"] > 5


def test_of_many_callers_one_creates_the_object(s3_uri):
    store = open_store(s3_uri)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: store.put_if_absent("key", b"%d" % i), range(16)))
    assert sum(made) == 1
    assert store.read_bytes("key") == b"%d" % made.index(True)


def test_a_public_bucket_is_read_without_credentials(s3_uri, monkeypatch):
    owner = s3.S3Store(s3_uri)
    owner.write_bytes("key", b"public")
    owner._s3.put_object_acl(Bucket=owner.bucket, Key="key", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(s3, "_has_credentials", lambda: False)
    seen = []
    store = s3.S3Store(s3_uri)
    store._s3.meta.events.register("before-send.s3", lambda request, **_: seen.append(request))
    assert store.read_bytes("key") == b"public"
    assert seen
    assert not any("Authorization" in request.headers for request in seen)
    filesystem, path = s3.filesystem(s3_uri)
    with filesystem.open_input_file(f"{path}/key") as file:
        assert file.read() == b"public"


def test_pyarrow_reads_what_the_store_wrote(s3_uri):
    open_store(f"{s3_uri}/folder").write_bytes("key", b"content")
    filesystem, path = s3.filesystem(f"{s3_uri}/folder/")
    assert path.endswith("/folder")
    with filesystem.open_input_file(f"{path}/key") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://example.org:9000", "unencrypted"),
        ("ftp://localhost", "no http"),
        ("https://user:canary-secret@host", "no http"),
    ],
)
def test_an_endpoint_that_is_unsafe_is_refused(monkeypatch, url, cause):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ConfigError, match=cause) as refused:
        s3.Endpoint.from_environment()
    assert "canary" not in str(refused.value)


def test_plain_http_to_another_machine_must_be_allowed(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio.svc:9000")
    monkeypatch.setenv("ITPN_RAY_S3_ALLOW_HTTP", "1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    found = s3.Endpoint.from_environment()
    assert (found.url, found.region) == ("http://minio.svc:9000", "eu-central-1")


def test_split():
    assert s3.split("s3://bucket") == ("bucket", "")
    assert s3.split("s3://bucket/a/b/") == ("bucket", "a/b")
    with pytest.raises(ConfigError, match="no bucket"):
        s3.split("s3:///prefix")
    with pytest.raises(ConfigError, match="credentials") as refused:
        s3.split("s3://id:canary-secret@bucket/prefix")
    assert "canary" not in str(refused.value)
    with pytest.raises(DataError):
        s3.split("s3://bucket/../other")


def test_boto3_is_not_loaded_for_local_files():
    code = (
        "import sys, itpn_ray.storage as s; s.open_store('/tmp').list('none');"
        "print(sorted({'boto3', 'torch', 'ray', 'pyarrow'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_aws_bucket_is_addressed_the_usual_way(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert s3.S3Store("s3://bucket")._s3.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
