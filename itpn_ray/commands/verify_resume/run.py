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
from itpn_ray.errors import ConfigError, RunError
from itpn_ray.experiment import ExperimentConfig, absolute, from_dict, without_evaluations
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
        RunError: the run ended before all kills that were asked for.
    """
    base = _short(config)
    # What an earlier test left would be taken up, and end at once.
    shutil.rmtree(base.out, ignore_errors=True)
    with start_ray(base.ray):
        whole = run_short(dataclasses.replace(base, run="whole"))
        killer = Killer(base, config.kills, seed=config.seed)
        killed = run_short(dataclasses.replace(base, run="killed"), killer)
    killer.check()
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
        self._waiting = sorted(self._random.sample(range(1, last), kills))
        self._asked = kills
        self._former: set[int] = set()
        self._known: set[float] = set()
        self._error: Exception | None = None
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

    def check(self) -> None:
        """Refuse what is no test of all the kills that were asked for.

        Raises:
            RunError: there were fewer kills, for the run had ended.
            Exception: what ended the watching.
        """
        if self._error is not None:
            raise self._error
        if len(self.kills) < self._asked:
            raise RunError(
                "kills",
                self._asked,
                f"the run ended after {len(self.kills)} of them, and proves nothing of the rest",
                "Give more --steps, or fewer --kills",
            )

    def restarts(self) -> list[float]:
        """Seconds from each kill to the next step's record."""
        found = []
        for moment in self._times:
            # A record within a second may still be of before the kill.
            after = [r["time"] for r in self.records if r["time"] > moment + 1.0]
            found += [min(after) - moment] if after else []
        return found

    def _watch(self) -> None:
        try:
            while not self._stop.wait(LOOK_EVERY_S):
                self._look()
        except Exception as error:  # must not be lost with the thread: `check` raises it
            self._error = error

    def _look(self) -> None:
        step = self._newest()
        # One kill a look: the next one is to strike a run that has come back.
        if self._waiting and step >= self._waiting[0] and self._strike(step):
            self._waiting.pop(0)

    def _newest(self) -> int:
        """Take down new records; the last step since the last kill, 0 where there is none."""
        since = self._times[-1] if self._times else 0.0
        steps = [0]
        for record in read_lines(self._folder / METRICS):
            if record["split"] != "train":
                continue
            # Told apart by time, for after a restart steps are recorded again.
            if record["time"] not in self._known:
                self._known.add(record["time"])
                self.records.append(record)
            if record["time"] > since:
                steps.append(record["step"])
        return max(steps)

    def _strike(self, step: int) -> bool:
        """Kill a worker that has come since the last kill; whether there was one to kill."""
        while self._during_save and not (self._folder / CHECKPOINTS / STAGING).exists():
            # Often, for a small checkpoint is written within milliseconds.
            if self._stop.wait(0.0005):
                return False
        workers = self._workers()
        if not workers:
            return False
        rank, pid = self._random.choice(workers)
        try:
            kill(pid)
        except ProcessLookupError:  # it has ended by itself: there is another look
            return False
        # The others end with it: killing one of them too would be the same restart.
        self._former |= {pid for _, pid in workers}
        # The newest step: training has gone on since that record was read.
        self.kills.append((max(step, self._newest()), rank))
        self._times.append(time.time())
        return True

    def _workers(self) -> list[tuple[int, int]]:
        """Rank and pid of each worker that has told its status since the last kill, by rank."""
        found = [
            json.loads(path.read_text()) for path in (self._folder / STATUS).glob("rank-*.json")
        ]
        told = ((status["rank"], status["pid"]) for status in found)
        return sorted((rank, pid) for rank, pid in told if pid not in self._former)


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
    base = without_evaluations(from_dict(plain))
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
