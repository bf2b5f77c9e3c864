"""A Ray head of a test's own: own ports, own folder, own token, everything on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.s3 import free_port

ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where the head listens and where its files are."""

    jobs_address: str
    address: str
    folder: Path


@contextmanager
def start_head(*, num_cpus: int = 2, autoscaling: dict[str, Any] | None = None) -> Iterator[Head]:
    """Run ``ray start --head`` for the length of a ``with`` block.

    It is killed with its process group, because ``ray stop`` would end every Ray of this user. Jobs
    are taken some seconds after it yields.

    Args:
        num_cpus: logical CPUs of the head.
        autoscaling: a configuration like clusters/local.yaml, for nodes that come and go.
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
    if autoscaling is not None:
        provider = autoscaling["provider"] | {"gcs_address": f"127.0.0.1:{port}"}
        (folder / "cluster.yaml").write_text(yaml.safe_dump(autoscaling | {"provider": provider}))
        command.append(f"--autoscaling-config={folder / 'cluster.yaml'}")
        environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": provider["head_node_id"],
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
    process = _launch(command, environment, folder)
    try:
        yield Head(
            jobs_address=f"http://127.0.0.1:{dashboard_port}",
            address=f"127.0.0.1:{port}",
            folder=folder,
        )
    finally:
        _kill(process)
        shutil.rmtree(folder, ignore_errors=True)


def _launch(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    """Start the head; Ray gives it 30 s, which can be too few on a crowded machine: try again."""
    log = folder / "start.log"
    for _ in range(ATTEMPTS):
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        while process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return process
            time.sleep(0.1)
        _kill(process)
        if "timed out during startup" not in log.read_text():
            break
    raise AssertionError(log.read_text())


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
