"""Faults on request against a run under way; `itpn_ray.commands.chaos.faults` makes them."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from itpn_ray.commands.chaos.config import ChaosConfig
from itpn_ray.commands.chaos.faults import FlakyServer, full_disk, kill
from itpn_ray.errors import ConfigError
from itpn_ray.runs.journal import STATUS
from itpn_ray.terminal.console import Console

FRESH_S = 30.0
"""A worker that has reported nothing for longer is not taken for alive."""


def chaos(config: ChaosConfig, console: Console) -> None:
    """Do what is asked for, and say what was done.

    Raises:
        ConfigError: the run has no worker under way on this machine.
    """
    chooser = random.Random(config.seed)
    for number in range(config.kills):
        victim = chooser.choice(_workers(config.run))
        kill(victim["pid"])
        console.say(
            f"killed worker {victim['rank']} (pid {victim['pid']}) near step {victim['step']}"
        )
        if number + 1 < config.kills:
            time.sleep(config.every_s)
    if config.full_disk_mb:
        victim = _workers(config.run)[0]
        with full_disk(victim["pid"], int(config.full_disk_mb * 1e6)):
            console.say(f"worker {victim['rank']} finds its disk full for {config.every_s:g} s")
            time.sleep(config.every_s)
    if config.s3:
        _flaky(config, console)


def _workers(run: str) -> list[dict[str, Any]]:
    """Newest status of each worker under way, by rank."""
    found = [json.loads(path.read_text()) for path in Path(run).glob(f"{STATUS}/rank-*.json")]
    # Files of workers that have ended stay in the folder, with pids that may be another's by now.
    alive = [status for status in found if time.time() - status["time"] < FRESH_S]
    if not alive:
        raise ConfigError(
            "run", run, "has no worker under way", "Give the folder of a run that trains right now"
        )
    return sorted(alive, key=lambda status: int(status["rank"]))


def _flaky(config: ChaosConfig, console: Console) -> None:
    server = FlakyServer(config.s3, refuse=config.refuse, delay=config.delay_s, seed=config.seed)
    with server:
        console.say(f"export AWS_ENDPOINT_URL_S3={server.url}   # until Ctrl-C here")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            console.say(", ".join(f"{n} {what}" for what, n in server.counts.items()))
