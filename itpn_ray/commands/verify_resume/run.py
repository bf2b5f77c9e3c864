"""The kill test on a run's own configuration: a killed run must end bit-equal to one left alone."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itpn_ray.commands.chaos.faults import kill
from itpn_ray.commands.verify_resume.config import VerifyConfig
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, absolute, from_dict
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.runs.folder import CHECKPOINTS, CONFIG, read_inputs
from itpn_ray.runs.journal import METRICS, STATUS, FileJournal, read_lines
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.training.checkpoint.state_files import state_digest
from itpn_ray.training.checkpoint.writer import STAGING
from itpn_ray.training.launch.process import open_checkpoints

LOOK_EVERY_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the test found.

    Attributes:
        whole: SHA-256 of weights, averages and optimiser of the run left alone.
        killed: the same of the run that was killed.
        kills: (step, rank) of each kill.
        repeated: steps done more than once.
        restart_s: seconds from each kill to the next step's record.
    """

    whole: str
    killed: str
    kills: list[tuple[int, int]]
    repeated: int
    restart_s: list[float]

    @property
    def equal(self) -> bool:
        """Whether the two ended bit-equal."""
        return self.whole == self.killed


def verify_resume(config: VerifyConfig) -> Verdict:
    """Train a few steps twice, once undisturbed and once with kills, and compare.

    Raises:
        ConfigError: the folder holds no run, or an epoch is too short for the test.
    """
    base = _short(config)
    # What an earlier test left would be taken up, and end at once.
    shutil.rmtree(base.out, ignore_errors=True)
    with start_ray(base.ray):
        whole = run_short(dataclasses.replace(base, run="whole"))
        killer = Killer(base, config.kills, seed=config.seed)
        killed = run_short(dataclasses.replace(base, run="killed"), killer)
    steps = [r["step"] for r in killer.records]
    return Verdict(
        whole=whole,
        killed=killed,
        kills=killer.kills,
        repeated=len(steps) - len(set(steps)),
        restart_s=killer.restarts(),
    )


def run_short(config: ExperimentConfig, killer: Killer | None = None) -> str:
    """Train to the end under Ray, and return the digest of the final state."""
    from itpn_ray.training.launch.ray_trainer import launch

    folder = Path(config.out) / config.run
    # Makes the run's folder, which the killer watches.
    FileJournal(folder)
    if killer is not None:
        killer.start(folder)
    try:
        launch(config, folder)
    finally:
        if killer is not None:
            killer.stop()
    checkpoint = open_checkpoints(config).latest_good()
    assert checkpoint is not None, "a run that ended has saved its last step"
    return state_digest(checkpoint.load("network", "optimizer"))


class Killer:
    """Kills a random worker at random steps, from outside, by the pids that the workers tell.

    Args:
        config: the run; its last step bounds the choice.
        kills: how many.
        seed: of the choice.
        during_save: strike while a checkpoint is being written.
    """

    def __init__(
        self, config: ExperimentConfig, kills: int, *, seed: int, during_save: bool = False
    ) -> None:
        self._random = random.Random(seed)
        last = round(config.optim.epochs * _steps_per_epoch(config))
        # Never at the last step, after which nothing is left to go on with.
        self._at = sorted(self._random.sample(range(1, last), kills))
        self._workers = config.worker_range[1]
        self._during_save = during_save
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._folder = Path()
        self.kills: list[tuple[int, int]] = []
        self.records: list[dict[str, Any]] = []
        self._times: list[float] = []

    def start(self, folder: Path) -> None:
        """Begin to watch a run's folder."""
        self._folder = folder
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def restarts(self) -> list[float]:
        """Seconds from each kill to the next step's record."""
        found = []
        for moment in self._times:
            # A record within a second may still be of before the kill.
            after = [r["time"] for r in self.records if r["time"] > moment + 1.0]
            found += [min(after) - moment] if after else []
        return found

    def _watch(self) -> None:
        waiting = list(self._at)
        known: set[float] = set()
        while not self._stop.wait(LOOK_EVERY_S):
            for record in read_lines(self._folder / METRICS):
                # Told apart by time, for after a restart steps are recorded again.
                if record["split"] == "train" and record["time"] not in known:
                    known.add(record["time"])
                    self.records.append(record)
                    if waiting and record["step"] >= waiting[0]:
                        waiting.pop(0)
                        self._kill(record["step"])

    def _kill(self, step: int) -> None:
        while self._during_save and not (self._folder / CHECKPOINTS / STAGING).exists():
            # Often, for a small checkpoint is written within milliseconds.
            time.sleep(0.0005)
        # The newest step: training has gone on since that record was read.
        step = max(r["step"] for r in read_lines(self._folder / METRICS) if r["split"] == "train")
        rank = self._random.randrange(self._workers)
        path = self._folder / STATUS / f"rank-{rank}.json"
        kill(json.loads(path.read_text())["pid"])
        self.kills.append((step, rank))
        self._times.append(time.time())


def _short(config: VerifyConfig) -> ExperimentConfig:
    """The run's configuration, cut to a few steps, in a folder of its own."""
    path = Path(config.run) / CONFIG
    if not path.is_file():
        raise ConfigError(
            "run", config.run, "is no run's folder", "Give out/RUN of a pre-training or fine-tuning"
        )
    plain = json.loads(path.read_text())
    # Kept beside the settings, and none of them.
    plain.pop("command")
    plain["data"] = absolute(config.data) or plain["data"]
    base = from_dict(plain)
    known = read_inputs(path.parent).get("data")
    if known not in (None, read_manifest(base.data).digest):
        raise ConfigError("data", base.data, "is not the run's data", "Give those with --data")
    per_epoch = _steps_per_epoch(base)
    return dataclasses.replace(
        base,
        out=str(Path(config.run).absolute() / "verify"),
        # Another process in any case, for this one cannot kill itself and go on.
        workers=config.workers or (base.workers if base.workers != "0" else "1"),
        loader=dataclasses.replace(base.loader, transport="ray"),
        eval_every=-1,
        log_every=1,
        # One restart for each kill, and one to spare.
        max_failures=config.kills + 1,
        # The run's own warm-up may be longer than these few steps.
        optim=dataclasses.replace(
            base.optim, epochs=config.steps / per_epoch, warmup_epochs=0.0, warmup_steps=0
        ),
        checkpoint=dataclasses.replace(
            base.checkpoint, uri="", every_steps=config.every_steps, keep_every=0
        ),
        tracking=TrackingConfig(kind="none"),
    )


def _steps_per_epoch(config: ExperimentConfig) -> int:
    return len(open_dataset(config.data, "train")) // config.optim.global_batch
