"""A Ray head of a test's own: own ports, own folder, own token, everything on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.s3 import free_port


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the head listens and where its files are."""

    jobs_address: str
    address: str
    folder: Path


@contextmanager
def start_head(*, num_cpus: int = 2) -> Iterator[Head]:
    """Run ``ray start --head`` for the length of a ``with`` block.

    It is killed with its process group, because ``ray stop`` would end every Ray of this user. The
    dashboard comes up some seconds after this returns.
    """
    port, dashboard_port = free_port(), free_port()
    # Ray's sockets lie below this folder, and a socket's path may have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="ih", dir="/tmp"))
    bin_folder = Path(sys.executable).parent
    command = [
        str(bin_folder / "ray"), "start", "--head", "--block", f"--port={port}",
        "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", f"--num-cpus={num_cpus}",
        "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        "--dashboard-agent-listen-port=0",
    ]  # fmt: skip
    environment = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "RAY_LOGGER_LEVEL": "warning",  # As in clusters/: "info" logs a job's variables.
    }
    with (folder / "start.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Head(
            jobs_address=f"http://127.0.0.1:{dashboard_port}",
            address=f"127.0.0.1:{port}",
            folder=folder,
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
