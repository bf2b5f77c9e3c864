"""How busy the machine is: CPU, memory and NVIDIA GPUs, sampled in a thread."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable

import psutil

_LOG = logging.getLogger(__name__)
_GPU_FIELDS = ("utilization.gpu", "memory.used", "memory.total", "power.draw")
_GPU_NAMES = (
    "utilization_percentage",
    "memory_usage_megabytes",
    "memory_total_megabytes",
    "power_usage_watts",
)


def system_metrics() -> dict[str, float]:
    """What the machine does now, under MLflow's own names so that its page shows them apart.

    Returns:
        Per cent and megabytes (10^6 bytes; for GPUs as nvidia-smi counts them), watts.
    """
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        **_gpu_metrics(),
    }


def _gpu_metrics() -> dict[str, float]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}  # a machine may carry the program without a device or driver
    return parse_gpu_table(done.stdout)


def parse_gpu_table(table: str) -> dict[str, float]:
    """The values of ``nvidia-smi --format=csv,noheader,nounits``, one line a GPU.

    Fields that the device does not support (``[N/A]``) are left out.
    """
    metrics: dict[str, float] = {}
    for index, line in enumerate(table.strip().splitlines()):
        for name, text in zip(_GPU_NAMES, line.split(","), strict=True):
            number = text.strip()
            if number.replace(".", "", 1).isdigit():
                metrics[f"system/gpu_{index}_{name}"] = float(number)
    return metrics


class SystemSampler:
    """Calls ``log(metrics)`` every ``interval`` seconds from a thread of its own."""

    def __init__(self, log: Callable[[dict[str, float]], None], *, interval: float = 10.0) -> None:
        self._log = log
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Take the first sample after one interval: CPU use is counted between two calls."""
        psutil.cpu_percent()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a sample that is being taken is finished first."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._log(system_metrics())
            except Exception as error:  # the next sample may be taken again
                _LOG.warning("a sample of the machine is missing: %s", error)
