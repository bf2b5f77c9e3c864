import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from itpn_ray.commands.chaos.faults import FlakyServer, full_disk, kill


class Keeper(BaseHTTPRequestHandler):
    """Keeps what is put, and gives it back."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]

    def do_PUT(self):
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def do_GET(self):
        self.answer(self.kept[self.path])

    do_HEAD = do_GET

    def answer(self, content: bytes):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def target():
    handler = type("Handler", (Keeper,), {"kept": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.kept
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: FlakyServer, method: str, path: str, body=None, **options):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    try:
        connection.request(method, path, body=body, **options)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_without_faults_everything_passes(target):
    url, kept = target
    with FlakyServer(url) as server:
        assert ask(server, "PUT", "/key", b"content")[0] == 200
        assert ask(server, "PUT", "/parts", iter([b"con", b"tent"]), encode_chunked=True)[0] == 200
        assert kept == {"/key": b"content", "/parts": b"content"}
        assert ask(server, "GET", "/key")[2] == b"content"
        status, headers, content = ask(server, "HEAD", "/key")
        assert (status, headers["Content-Length"], content) == (200, "7", b"")
        assert headers["X-Host"] == server.url.removeprefix("http://")
        assert server.counts == {"passed": 4}


def test_refused_requests_are_not_carried_out_and_lost_ones_are(target):
    url, kept = target
    with FlakyServer(url, refuse=0.25, lose=0.25, seed=1) as server:
        answers = [ask(server, "PUT", f"/{i}", b"x") for i in range(100)]
    refused, lost = server.counts["refused"], server.counts["lost"]
    assert [status for status, *_ in answers].count(503) == refused + lost
    assert all(b"SlowDown" in content for status, _, content in answers if status == 503)
    assert 15 < refused < 35
    assert 15 < lost < 35
    assert len(kept) == 100 - refused


def test_cut_answers_break_off_and_slow_ones_are_slow(target):
    url, kept = target
    kept["/key"] = b"content"
    with FlakyServer(url, cut=1.0, delay=0.2) as server:
        begin = time.monotonic()
        with pytest.raises(http.client.IncompleteRead) as broken:
            ask(server, "GET", "/key")
        assert broken.value.partial == b"con"
        assert time.monotonic() - begin >= 0.2


def test_kill():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kill(process.pid)
    assert process.wait() == -signal.SIGKILL
    process.stdin.close()


def test_a_full_disk_has_room_again_afterwards(tmp_path):
    with full_disk(os.getpid(), 10_000):
        with pytest.raises(OSError, match="File too large"):
            (tmp_path / "file").write_bytes(bytes(10_001))
        (tmp_path / "file").write_bytes(bytes(10_000))
    (tmp_path / "file").write_bytes(bytes(10_001))
