"""The runs of a table: each cell with each seed, and those that several cells share once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from itpn_ray import checks
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.experiment import FREE_TO_CHANGE, ExperimentConfig, absolute, to_dict
from itpn_ray.recipes import named, recipes_of
from itpn_ray.reproduction.config import ReproduceConfig
from itpn_ray.reproduction.grid import Cell, Step, Table
from itpn_ray.reproduction.scales import SCALES, NotAvailable, scaled
from itpn_ray.runs.folder import EXPORT
from itpn_ray.tracking.base import flatten

RUNS = "runs"
"""Folder in OUT of the runs that tables share."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run: what an ordinary verb would do."""

    verb: str
    recipe: str
    config: ExperimentConfig

    @property
    def command(self) -> str:
        """The command that does the same: its recipe, and every option that differs from it."""
        default = flatten(to_dict(named(recipes_of(self.verb), self.recipe)))
        words = ["itpn-ray", self.verb, self.recipe]
        for name, value in flatten(to_dict(self.config)).items():
            # Verb and recipe decide the kind of task: no option does.
            if default.get(name) != value and name != "task.kind":
                option = f"--{name.replace('_', '-')}"
                words += [option, *_words(value)]
        return shlex.join(words)


def _words(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell with the runs of each seed: the last one is measured."""

    cell: Cell
    runs: tuple[tuple[PlannedRun, ...], ...]
    """By seed, in the order in which they are run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a table takes here."""

    cells: tuple[PlannedCell, ...]
    missing: tuple[tuple[Cell, str], ...]
    """Cells that cannot be run here, and why."""

    def runs(self) -> dict[str, PlannedRun]:
        """Every run once, by its name: all cells of one seed before the next seed's."""
        chains = (
            # Seed by seed: a reproduction that is stopped has every row with the first seeds.
            run
            for seed in range(max((len(one.runs) for one in self.cells), default=0))
            for one in self.cells
            for run in one.runs[seed]
        )
        # By name: cells share runs, such as one pre-training.
        return {run.config.run: run for run in chains}


def plan(table: Table, config: ReproduceConfig) -> Plan:
    """The runs of a table, and the cells that cannot be run here.

    Raises:
        DataError: data that is named cannot be read.
        ConfigError: settings that do not go together.
    """
    cells, missing = [], []
    for cell in table.cells:
        try:
            # Tuples here, for a generator would raise outside of the try.
            runs = tuple(tuple(_chain(cell, config, seed)) for seed in range(config.seeds))
        except NotAvailable as reason:
            missing.append((cell, str(reason)))
        else:
            cells.append(PlannedCell(cell=cell, runs=runs))
    return Plan(cells=tuple(cells), missing=tuple(missing))


def _chain(cell: Cell, config: ReproduceConfig, seed: int) -> Iterator[PlannedRun]:
    """The runs of a cell with one seed, each from the weights of the one before.

    Raises:
        NotAvailable: something that a run needs is not there.
    """
    before: PlannedRun | None = None
    for step in cell.steps:
        recipe, own = _settings(step, config, seed)
        if cell.metric == "mask_AP" and not getattr(own.task, "masks", True):
            raise NotAvailable("no masks are learned at this scale")
        data = _data(step, config)
        # The run before is part of the digest: a name tells all that a run was made from.
        origin = before.config.run if before else ""
        run = PlannedRun(
            verb=step.verb,
            recipe=recipe,
            config=dataclasses.replace(
                own,
                run=f"{step.verb}-{_digest(own, read_manifest(data).digest, origin)}",
                out=f"{absolute(config.out)}/{RUNS}",
                data=absolute(data),
                model=dataclasses.replace(own.model, init=_weights(config, origin)),
            ),
        )
        yield run
        before = run


def _weights(config: ReproduceConfig, run: str) -> str:
    return f"{absolute(config.out)}/{RUNS}/{run}/{EXPORT}" if run else ""


def _settings(step: Step, config: ReproduceConfig, seed: int) -> tuple[str, ExperimentConfig]:
    """A step's recipe, and what it computes, wherever it is kept."""
    recipe, own = scaled(step, SCALES[config.scale])
    if "teacher" in {field.name for field in dataclasses.fields(own.task)}:
        if not config.teacher:
            raise NotAvailable("it needs a CLIP teacher: --teacher")
        task = dataclasses.replace(own.task, **{"teacher": absolute(config.teacher)})
        own = dataclasses.replace(own, task=task)
    own = dataclasses.replace(own, seed=seed, tracking=config.tracking, ray=config.ray)
    if config.workers or config.scale == "nano":
        # A laptop's runs stay in this process: one of a minute is not to wait for Ray.
        workers = config.workers or "0"
        transport = "threads" if workers == "0" else own.loader.transport
        loader = dataclasses.replace(own.loader, transport=transport)
        own = dataclasses.replace(own, workers=workers, loader=loader)
    cpus = own.cpus_per_worker if config.cpus_per_worker is None else config.cpus_per_worker
    return recipe, dataclasses.replace(own, cpus_per_worker=cpus)


def _data(step: Step, config: ReproduceConfig) -> str:
    """The data that a step is trained on.

    Raises:
        NotAvailable: none is named.
    """
    option = step.data or {"detect": "objects", "segment": "masks"}.get(step.verb, "data")
    data = str(getattr(config, option))
    if not data:
        raise NotAvailable(f"it needs data: --{option}")
    return data


def _digest(config: ExperimentConfig, data: str, origin: str) -> str:
    """Twelve hexadecimal digits of what a run computes: settings, data, and where it starts."""
    free = ("run", "out", "data", "model.init", *FREE_TO_CHANGE)
    plain: Mapping[str, Any] = {
        name: value
        for name, value in flatten(to_dict(config)).items()
        if not checks.within(name, free)
    }
    text = json.dumps({"settings": plain, "data": data, "origin": origin}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
