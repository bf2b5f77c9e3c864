"""What the runs of a table have measured, as plain data for its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from itpn_ray.data.store.shards import open_dataset
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.report.restarts import timeline
from itpn_ray.reproduction.grid import Cell, Table
from itpn_ray.reproduction.plan import Plan, PlannedCell
from itpn_ray.reproduction.verdict import judge, score
from itpn_ray.runs.reader import read_run
from itpn_ray.training.claim import run_folder


def outcome(table: Table, plan: Plan) -> dict[str, Any]:
    """Cells with their seeds' intervals and budgets, verdicts, curves.

    Returns:
        ``cells``, ``claims``, ``missing``, and ``curves`` where the table has them; JSON values.
    """
    values = {
        _key(one.cell): [last_value(run, one.cell) for run in _last(one)] for one in plan.cells
    }
    return {
        "source": table.source,
        "held": table.held,
        "cells": [_row(one, values[_key(one.cell)]) for one in plan.cells],
        "claims": _claims(table, values),
        "missing": [
            {"row": cell.row, "column": cell.column, "reason": reason}
            for cell, reason in plan.missing
        ],
        **({"curves": _curves(plan)} if table.curves else {}),
    }


def _key(cell: Cell) -> tuple[str, str]:
    return cell.row, cell.column


def _last(planned: PlannedCell) -> list[ExperimentConfig]:
    """The measured run of each seed."""
    return [runs[-1].config for runs in planned.runs]


def evaluations(run: ExperimentConfig, cell: Cell) -> list[tuple[float, float]]:
    """(epoch, value) of the evaluations of a run."""
    return [
        (float(record["epoch"]), float(record[cell.metric]))
        for record in read_run(run_folder(run)).metrics
        if record["split"] == "val" and cell.metric in record
    ]


def last_value(run: ExperimentConfig, cell: Cell) -> float:
    """What a run has measured in its last evaluation."""
    return evaluations(run, cell)[-1][1]


def _row(planned: PlannedCell, values: Sequence[float]) -> dict[str, Any]:
    """A cell: its value with an interval, beside the paper's, and what it took."""
    cell, last = planned.cell, planned.runs[0][-1].config
    found = score(values, cell.metric, len(open_dataset(last.data, "val")))
    chain = [run.config for run in planned.runs[0]]
    return {
        "row": cell.row,
        "column": cell.column,
        "metric": cell.metric,
        "paper": cell.paper,
        "value": found.value,
        "half": None if math.isnan(found.half) else found.half,
        "values": list(values),
        "epochs": [run.optim.epochs for run in chain],
        "images": [len(open_dataset(run.data, "train")) for run in chain],
        # Of all seeds; epochs and images are those of one.
        "hours": sum(seconds_of(run.config) for runs in planned.runs for run in runs) / 3600,
        "runs": [run.config.run for runs in planned.runs for run in runs],
    }


def seconds_of(run: ExperimentConfig) -> float:
    """How long a run took, its restarts among it."""
    return timeline(read_run(run_folder(run)).events).seconds


def _claims(
    table: Table, values: Mapping[tuple[str, str], Sequence[float]]
) -> list[dict[str, Any]]:
    """A verdict on each claim whose two cells were run."""
    cells = {_key(cell): cell for cell in table.cells}
    judged = []
    for claim in table.claims:
        pair = (claim.better, claim.column), (claim.worse, claim.column)
        if all(key in values for key in pair):
            better, worse = (cells[key] for key in pair)
            judged.append(
                judge(
                    claim,
                    better.metric,
                    values[pair[0]],
                    values[pair[1]],
                    (better.paper, worse.paper),
                )
            )
    return judged


def _curves(plan: Plan) -> list[dict[str, Any]]:
    """The mean over seeds of each cell's metric after each evaluation, by column."""
    columns = dict.fromkeys(one.cell.column for one in plan.cells)
    return [
        {
            "title": column,
            "metric": next(one.cell.metric for one in plan.cells if one.cell.column == column),
            "series": [
                {"name": one.cell.row, "points": _mean_curve(one)}
                for one in plan.cells
                if one.cell.column == column
            ],
        }
        for column in columns
    ]


def _mean_curve(planned: PlannedCell) -> list[tuple[float, float]]:
    curves = [evaluations(run, planned.cell) for run in _last(planned)]
    return [
        (points[0][0], sum(value for _, value in points) / len(points))
        for points in zip(*curves, strict=True)
    ]
