"""Faults to order: killed processes, a flaky or slow S3, a full disk.

For tests, benchmarks and ``itpn-ray chaos``. All of them act from outside: the code under fault
has no switch for it and cannot tell them from the real thing.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
# Headers of one connection, which whoever passes a request on makes anew.
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class FlakyServer:
    """A server on this machine that passes requests on to an S3 server, but not all of them.

    Args:
        target: the S3 server, ``http://host:port``.
        refuse: fraction of requests answered 503 and not passed on.
        lose: fraction of requests that are passed on and carried out, and answered 503.
        cut: fraction of answers with a body that break off half-way.
        delay: seconds before each answer; may be changed.
        seed: of the choice.
        listen: address and port to listen on; any free port of this machine alone.

    Attributes:
        counts: requests by what became of them: passed, refused, lost, cut.
    """

    def __init__(
        self,
        target: str,
        *,
        refuse: float = 0.0,
        lose: float = 0.0,
        cut: float = 0.0,
        delay: float = 0.0,
        seed: int = 0,
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.target = urlsplit(target)
        self.delay = delay
        self.counts: Counter[str] = Counter()
        self._fractions = {"refused": refuse, "lost": lose, "cut": cut}
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        # A class of its own, for the server makes a handler for each request itself.
        handler = type("Handler", (_Handler,), {"faults": self})
        self._server = ThreadingHTTPServer(listen, handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens: the value for ``AWS_ENDPOINT_URL_S3``."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def fate(self) -> str:
        """What becomes of the next request."""
        # Each request has a thread of its own, and the draws are to come from one sequence.
        with self._lock:
            drawn, fate = self._random.random(), "passed"
            for name, fraction in self._fractions.items():
                if drawn < fraction:
                    fate = name
                    break
                # What is left of the draw decides among the other fates.
                drawn -= fraction
            self.counts[fate] += 1
        return fate

    def __enter__(self) -> FlakyServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: FlakyServer

    def _handle(self) -> None:
        body = self._body()
        fate = self.faults.fate()
        time.sleep(self.faults.delay)
        if fate == "refused":
            return self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
        status, headers, content = self._pass_on(body)
        # The server has done it, but its answer does not come through.
        if fate == "lost":
            return self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
        self._answer(status, headers, content, cut=fate == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        # Each chunk is announced by its length in hexadecimal.
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            # The end of the line behind each chunk.
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        target = self.faults.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
        # The host's name stays as the client wrote it: it is part of what S3 clients sign.
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP | {"expect"}}
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            # An answer to HEAD tells the length of a body that does not come.
            if self.command == "HEAD":
                kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
            return answer.status, kept, content

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        # Or the client would wait for the rest of the length that was told.
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the counts tell."""


def kill(pid: int) -> None:
    """End a process the hard way (SIGKILL): no handler runs, no buffer is flushed."""
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def full_disk(pid: int, size: int) -> Iterator[None]:
    """Let a running process write no file beyond ``size`` bytes, as on a disk that is full.

    It needs no privilege: the limit on file sizes of a process of the same user, lowered and put
    back. A write beyond it fails with EFBIG, which takes the same way as ENOSPC. Linux only.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    # The soft limit alone: a lowered hard one could not be raised again.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
