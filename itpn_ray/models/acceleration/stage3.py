"""Stage 3 with tokens that leave and with windows: the loop that puts the parts together.

Shapes: B images, N tokens of an image's grid, K windows an image, R = B * K rows, n tokens of a
row in the backbone, C channels, h heads. The windows are cut once: all blocks work on (R, n, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.acceleration.gathering import Gathering, Windows, offset_bias, read_gathered
from itpn_ray.models.acceleration.migration import leave_counts
from itpn_ray.models.acceleration.reduction import Reducer, State
from itpn_ray.models.layers.blocks import Block
from itpn_ray.models.layers.position import Grid, relative_index, resize_relative_table

Branches = tuple[Tensor, Tensor] | None
Run = Callable[..., Any]


@dataclass(frozen=True)
class Plan:
    """All that a map's size decides about a pass through stage 3."""

    windows: Windows
    reducer: Reducer
    gathering: Gathering | None
    pairs: Tensor | None
    """(N, N) int64, see `position.relative_index`: the offset between any two places of a row;
    None if nothing is learned about offsets."""


def make_plan(
    acceleration: Acceleration,
    gathering: Gathering | None,
    grid: Grid,
    depth: int,
    device: torch.device,
    *,
    own_tables: bool = False,
) -> Plan:
    """Windows and counts for a grid; `own_tables`: the blocks themselves have learned offsets.

    Raises:
        ConfigError: the ratio is too large for the depth.
    """
    windows = Windows.cover(grid, acceleration.window)
    reducer = Reducer(
        # With a ratio of 0 every kind is the plain network.
        acceleration.reduction if acceleration.ratio else "none",
        leave_counts(windows.places, acceleration.ratio, depth),
        windows.places,
        front=int(acceleration.gathering),
        outside=windows.outside(device),
    )
    tables = own_tables or (gathering is not None and gathering.window_bias is not None)
    pairs = relative_index(windows.side, device) if tables else None
    return Plan(windows, reducer, gathering, pairs)


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
        plan: for the image's grid.
        branches: for each block the weights of its two residual branches, (B,) each, or None.
        run: calls a function on arguments, checkpointing it or not.

    Returns:
        x: (B, N, C) after the last block, every token at its place.
        state: what was left at the end, and what left on the way.
    """
    rows = plan.windows.split(x)
    token = None if plan.gathering is None else plan.gathering.token
    if token is not None:
        # In front, where its place does not depend on how many tokens have left.
        rows = torch.cat([token.to(rows.dtype).expand(rows.shape[0], -1, -1), rows], dim=1)
    state = plan.reducer.start(rows)
    for number, block in enumerate(blocks):
        state = run(step, plan, number, block, state, branches[number])
    return plan.windows.join(plan.reducer.restore(state)), state


def step(plan: Plan, number: int, block: Block, state: State, branches: Branches) -> State:
    """One block: attention in windows, reading gathering tokens, leaving, MLP."""
    keep, feed_keep = (None, None) if branches is None else branches
    x, keys = block.attend(
        state.tokens.values, score_bias(plan, number, block, state), by_row(keep, plan)
    )
    if plan.gathering is not None and plan.gathering.token is not None:
        across = plan.gathering.across(number, plan.windows)
        x = read_gathered(block, x, plan.windows.number, across, keep)
    state = plan.reducer.reduce(state.with_values(x), keys, number)
    # After the leaving: tokens that go are spared this block's MLP too.
    return state.with_values(block.feed(state.tokens.values, by_row(feed_keep, plan)))


def by_row(keep: Tensor | None, plan: Plan) -> Tensor | None:
    """Weights of images (B,) as weights of their windows (R,)."""
    # All windows of an image share its draw.
    return None if keep is None else keep.repeat_interleave(plan.windows.number)


def score_bias(plan: Plan, number: int, block: Block, state: State) -> Tensor | None:
    """What is added to a block's scores, broadcastable to (R, h, n, n), or None."""
    pairs, keys = pair_bias(plan, number, block, state), plan.reducer.key_bias(state)
    if pairs is None or keys is None:
        return keys if pairs is None else pairs
    return pairs + keys


def pair_bias(plan: Plan, number: int, block: Block, state: State) -> Tensor | None:
    """Relative position of each query from each key, (1 or R, h, n, n), or None."""
    windows, front = plan.windows, plan.reducer.front
    table = offset_table(plan, number, block)
    if table is None or plan.pairs is None:
        return None
    bias = offset_bias(table, windows.side, plan.pairs)  # (h, N, N)
    if not any(plan.reducer.counts[:number]):
        return F.pad(bias, (front, 0, front, 0))[None] if front else bias[None]
    bias = F.pad(bias, (0, front, 0, front)) if front else bias  # by place: those in front are last
    place = state.tokens.positions  # (R, n)
    heads, places, _ = bias.shape
    # Heads are laid end to end: row p of head i is row i * (N + f) + p.
    start = torch.arange(heads, device=place.device)[:, None, None] * places
    bias = F.embedding(place + start, bias.flatten(0, 1))  # (h, R, n, N + f): whole rows first
    keys = place[:, None, :].expand(heads, -1, place.shape[1], -1)
    return bias.gather(3, keys).transpose(0, 1)  # (R, h, n, n)


def offset_table(plan: Plan, number: int, block: Block) -> Tensor | None:
    """What a block has learned about offsets, (h, 2S - 1, 2T - 1), offset 0 in the middle."""
    if block.attention.relative is not None:
        # The trunk's own offsets are those of the whole map, of which windows use the middle.
        table = resize_relative_table(block.attention.relative, plan.windows.grid)
        return table.t().unflatten(1, [2 * length - 1 for length in plan.windows.grid])
    if plan.gathering is None or plan.gathering.window_bias is None:
        return None
    return plan.gathering.window_bias[number]


def departures(state: State, plan: Plan) -> Tensor:
    """After which block's attention each token left, (B, H, W) int64; -1 for those that stayed.

    Migration and random dropping only: ToMe's tokens do not leave alone.
    """
    positions = state.tokens.positions
    # -1 stands for tokens that stay to the end.
    when = positions.new_full((positions.shape[0], plan.windows.places), -1)
    leaving = [number for number, count in enumerate(plan.reducer.counts) if count]
    for number, left in zip(leaving, state.store, strict=True):
        when = when.scatter(1, left.positions, number)
    return plan.windows.join(when[..., None])[..., 0].unflatten(1, plan.windows.grid)
