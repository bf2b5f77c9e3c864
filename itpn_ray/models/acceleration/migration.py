"""Token migration: similar tokens leave stage 3 and come back before the pyramid (paper 4.1).

Pure functions. Shapes: B rows (images, or windows of images), N places of a row's full grid,
n tokens of it still in the backbone, c tokens that leave in one block, C channels, h heads.

What the paper leaves open, and where each reading is:
- how many tokens leave in which block: `leave_counts`;
- which tokens are set A and which are set B: `halves`;
- the "mean of the attention map's K-matrix": `similarity`;
- when they leave: after a block's attention and before its MLP (`stage3.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.errors import ConfigError

SURE = 2.0  # above every cosine: a place outside the image leaves before any token does


class Tokens(NamedTuple):
    """Tokens and where they belong."""

    values: Tensor
    """(B, n, C)."""
    positions: Tensor
    """(B, n) int64, the place of each in its row's full grid."""


Store = tuple[Tokens, ...]
"""The tokens that have left so far, one entry a block that any left in."""


def leave_counts(tokens: int, ratio: float, depth: int) -> tuple[int, ...]:
    """How many of a row's `tokens` leave in each of `depth` blocks: evenly, `ratio` of all in sum.

    The counts follow from the arguments alone, so every shape is known before an image is seen.

    Raises:
        ConfigError: some block would lose more than the half that may leave.
    """
    # Differences of rounded sums: the counts differ by one at most and add up to the total.
    total = round(ratio * tokens)
    counts = tuple(total * (i + 1) // depth - total * i // depth for i in range(depth))
    left = tokens
    for count in counts:
        if count > left // 2:
            raise ConfigError(
                "ratio",
                ratio,
                f"{count} of the {left} tokens that are left would have to leave in one of "
                f"{depth} blocks, and at most half can",
                "Use a smaller ratio",
            )
        left -= count
    return counts


def migrate(
    tokens: Tokens,
    keys: Tensor,
    count: int,
    store: Store = (),
    *,
    first: int = 0,
    outside: Tensor | None = None,
) -> tuple[Tokens, Store]:
    """Move the `count` tokens of each row that resemble others most into the store.

    Args:
        tokens: those in the backbone; n of them.
        keys: (B, h, n, C / h) attention keys of the block, which decide.
        count: c, at most half of the tokens.
        store: what left in the blocks before.
        first: tokens at the front of each row that never leave and are nobody's likeness.
        outside: (B, n) bool, True where a token only fills a window up beyond the image's edge.

    Returns:
        kept: the n - c others, in order.
        store: with the c that left, in order.
    """
    if count == 0:
        return tokens, store
    seen = None if outside is None else outside[:, first:]
    best = similarity(keys[:, :, first:], seen).amax(-1)
    kept, left = part(tokens, leavers(best, count, first))
    return kept, (*store, left)


def replenish(kept: Tokens, store: Store) -> Tensor:
    """Put every token back at its place: (B, N, C)."""
    if not store:
        return kept.values
    values = torch.cat([kept.values, *(left.values for left in store)], dim=1)
    positions = torch.cat([kept.positions, *(left.positions for left in store)], dim=1)
    # The inverse of the permutation: where the token of each place lies by now.
    place = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    return take(values, torch.empty_like(positions).scatter(1, positions, place))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sets A and B of (B, n, ...): the tokens that remain, alternately, from the first on."""
    return x[:, 0::2], x[:, 1::2]


def similarity(keys: Tensor, outside: Tensor | None = None) -> Tensor:
    """The cosine of the keys averaged over heads, each token of A with each of B.

    Nothing is differentiated: only the order counts.

    Args:
        keys: (B, h, n, C / h).
        outside: (B, n) bool or None; such tokens leave first and are nobody's likeness.

    Returns:
        (B, ceil(n / 2), floor(n / 2)) in [-1, 1], or +-`SURE` in the rows and columns of tokens
        outside the image.
    """
    # In float32, since sums of bfloat16 would lose what tells neighbours apart.
    mean = keys.detach().mean(1, dtype=torch.float32)  # (B, n, C / h)
    # rms_norm is one kernel; its result has length sqrt(C / h), hence the factor.
    mean = F.rms_norm(mean, mean.shape[-1:], eps=1e-12) * mean.shape[-1] ** -0.5  # length 1
    # bfloat16 cannot tell cosines above 0.996 apart; float16 can, and costs a GPU the same.
    if keys.is_cuda and keys.dtype in (torch.bfloat16, torch.float16):
        mean = mean.half()
    a, b = halves(mean)
    kind = keys.device.type
    # The meta device, on which costs are counted, has no autocast.
    if not keys.is_meta and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            cosine = a @ b.mT
    else:
        cosine = a @ b.mT
    if outside is not None:
        outside_a, outside_b = halves(outside)
        # B first: a pair that is outside on both sides must read as leaving.
        cosine = cosine.masked_fill(outside_b[:, None, :], -SURE)
        cosine = cosine.masked_fill(outside_a[:, :, None], SURE)
    return cosine


def leavers(best: Tensor, count: int, first: int = 0) -> Tensor:
    """The `count` tokens of A with the largest `best` (B, n / 2): (B, c) places in x, ascending."""
    # Sorted by place, which `survivors` counts on; the order by likeness is of no use.
    chosen = best.topk(count, sorted=False).indices.sort(-1).values * 2  # A is every other token
    return chosen + first if first else chosen


def survivors(leaving: Tensor, tokens: int) -> Tensor:
    """The (B, n - c) indices, ascending, of the n = `tokens` that `leaving` (B, c) leaves over.

    Survivor j is j plus the number of leavers before it, and leaver i (from 0) comes before it
    exactly if leaving[i] - i <= j. Comparing is cheaper than a sort, and every exporter knows it.
    """
    count = leaving.shape[1]
    order = torch.arange(tokens, device=leaving.device)
    # How many stay in front of each leaver.
    ahead = leaving - order[:count]  # (B, c)
    order = order[: tokens - count]
    # One place further for every leaver that lies before: (B, s, c) -> (B, s).
    return order + (ahead[:, None, :] <= order[:, None]).sum(-1)


def part(tokens: Tokens, leaving: Tensor) -> tuple[Tokens, Tokens]:
    """Split tokens into those that stay and those at `leaving` (B, c), ascending."""
    values, positions = tokens
    staying, start = survivors(leaving, positions.shape[1]), first_rows(values)
    return (
        Tokens(look_up(values, staying + start), positions.gather(1, staying)),
        Tokens(look_up(values, leaving + start), positions.gather(1, leaving)),
    )


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, m) of each of x (B, n, C): (B, m, C)."""
    return look_up(x, index + first_rows(x))


def first_rows(x: Tensor) -> Tensor:
    """Where each row of x (B, n, C) starts if all are laid end to end, (B, 1) int64."""
    batch, tokens = x.shape[:2]
    # Images laid end to end, so that one index serves the batch.
    return torch.arange(batch, device=x.device)[:, None] * tokens


def look_up(x: Tensor, index: Tensor) -> Tensor:
    """Entries `index` (B, m) of x (B, n, C) laid end to end: (B, m, C).

    As a table it is differentiated ten times faster on a CPU than with torch.gather.
    """
    return F.embedding(index, x.flatten(0, 1))
