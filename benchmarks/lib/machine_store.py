"""An S3 server for the machines of `benchmarks.lib.machines`, as slow as a file says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.lib.machine_cluster import DELAY
from itpn_ray.commands.chaos.faults import FlakyServer

PORT, INNER = 5000, 5001


def main() -> None:
    """Serve until the machine is gone."""
    delay = Path(DELAY)
    inner = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(INNER)]
    subprocess.Popen(inner)
    with FlakyServer(f"http://127.0.0.1:{INNER}", listen=("0.0.0.0", PORT)) as server:
        while True:
            server.delay = float(delay.read_text()) if delay.exists() else 0.0
            time.sleep(0.2)


if __name__ == "__main__":
    main()
