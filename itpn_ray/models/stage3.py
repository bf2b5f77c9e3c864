"""Stage 3 with tokens that leave and with windows: the loop that puts the parts together.

Shapes: B pictures, N tokens of a picture's grid, K windows a picture, R = B * K rows, n tokens of a
row in the backbone, C channels, h heads. The windows are cut once: all blocks work on (R, n, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.acceleration import Acceleration
from itpn_ray.models.gathering import Gathering, Windows, offset_bias, read_gathered
from itpn_ray.models.layers import Block, add_branch
from itpn_ray.models.migration import leave_counts
from itpn_ray.models.position import Grid, resize_relative_table
from itpn_ray.models.reduction import Reducer, State

Branches = tuple[Tensor, Tensor] | None
Run = Callable[..., Any]


@dataclass(frozen=True)
class Plan:
    """All that a map's size decides about a pass through stage 3."""

    windows: Windows
    reducer: Reducer
    gathering: Gathering | None


def make_plan(
    acceleration: Acceleration,
    gathering: Gathering | None,
    grid: Grid,
    depth: int,
    device: torch.device,
) -> Plan:
    """Windows and counts for a grid.

    Raises:
        ConfigError: the ratio is too large for the depth.
    """
    windows = Windows.cover(grid, acceleration.window)
    reducer = Reducer(
        acceleration.reduction if acceleration.ratio else "none",
        leave_counts(windows.places, acceleration.ratio, depth),
        windows.places,
        front=int(acceleration.gathering),
        outside=windows.outside(device),
    )
    return Plan(windows, reducer, gathering)


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Tensor,
    plan: Plan,
    branches: Sequence[Branches],
    run: Run,
) -> tuple[Tensor, State]:
    """Stage 3, accelerated.

    Args:
        blocks: of stage 3.
        x: (B, N, C) tokens with position.
        plan: for the picture's grid.
        branches: for each block the weights of its two residual branches, (B,) each, or None.
        run: calls a function on arguments, checkpointing it or not.

    Returns:
        x: (B, N, C) after the last block, every token at its place.
        state: what was left at the end, and what left on the way.
    """
    rows = plan.windows.split(x)
    token = None if plan.gathering is None else plan.gathering.token
    if token is not None:
        rows = torch.cat([token.to(rows.dtype).expand(rows.shape[0], -1, -1), rows], dim=1)
    state = plan.reducer.start(rows)
    for number, block in enumerate(blocks):
        state = run(step, plan, number, block, state, branches[number])
    return plan.windows.join(plan.reducer.restore(state)), state


def step(plan: Plan, number: int, block: Block, state: State, branches: Branches) -> State:
    """One block: attention in windows, reading gathering tokens, leaving, MLP."""
    keep1, keep2 = (None, None) if branches is None else branches
    if keep1 is not None and keep2 is not None and plan.windows.number > 1:
        keep1, keep2 = (keep.repeat_interleave(plan.windows.number) for keep in (keep1, keep2))
    x, keys = block.attend(state.tokens.values, score_bias(plan, number, block, state), keep1)
    if plan.gathering is not None and plan.gathering.token is not None:
        across = plan.gathering.across(number, plan.windows)
        read = read_gathered(block.attention, block.norm1(x), plan.windows.number, across)
        x = add_branch(x, read, block.scale1, keep1)
    state = plan.reducer.reduce(state.with_values(x), keys, number)
    return state.with_values(block.feed(state.tokens.values, keep2))


def score_bias(plan: Plan, number: int, block: Block, state: State) -> Tensor | None:
    """What is added to a block's scores, broadcastable to (R, h, n, n), or None."""
    pairs, keys = pair_bias(plan, number, block, state), plan.reducer.key_bias(state)
    if pairs is None or keys is None:
        return keys if pairs is None else pairs
    return pairs + keys


def pair_bias(plan: Plan, number: int, block: Block, state: State) -> Tensor | None:
    """Relative position of each query from each key, (1 or R, h, n, n), or None."""
    windows = plan.windows
    bias = None if plan.gathering is None else plan.gathering.inside(number, windows)
    if block.attention.relative is not None:
        table = resize_relative_table(block.attention.relative, windows.grid)
        sides = [2 * length - 1 for length in windows.grid]
        bias = offset_bias(table.t().unflatten(1, sides), windows.side)  # (h, N, N)
    if bias is None:
        return None
    if sum(plan.reducer.counts[:number]) == 0:
        front = plan.reducer.front
        return F.pad(bias, (front, 0, front, 0))[None]
    bias = F.pad(bias, (0, plan.reducer.front, 0, plan.reducer.front))  # by place: front ones last
    place = state.tokens.positions
    return bias[:, place[:, :, None], place[:, None, :]].transpose(0, 1)  # (h, R, n, n) -> R first


def departures(state: State, plan: Plan) -> Tensor:
    """After which block's attention each token left, (B, H, W) int64; -1 for those that stayed.

    Migration and random dropping only: ToMe's tokens do not leave alone.
    """
    positions = state.tokens.positions
    when = positions.new_full((positions.shape[0], plan.windows.places), -1)
    leaving = [number for number, count in enumerate(plan.reducer.counts) if count]
    for number, left in zip(leaving, state.store, strict=True):
        when = when.scatter(1, left.positions, number)
    return plan.windows.join(when[..., None])[..., 0].unflatten(1, plan.windows.grid)
