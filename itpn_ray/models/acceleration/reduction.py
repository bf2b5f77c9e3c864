"""Ways to thin stage 3's tokens out, behind one interface: migration and what it is compared with.

| kind      | which tokens leave a block                | what comes back at their places    |
|-----------|-------------------------------------------|------------------------------------|
| migration | those of A most similar to one of B (4.1) | they themselves, as they left      |
| random    | drawn once for all images               | they themselves, as they left      |
| tome      | as for migration                          | the token they were averaged into  |
| none      | none                                      |                                    |

Shapes: B images, K windows an image, R = B * K rows, N places of a row's full grid, f tokens in
front of each row that never leave, n tokens of a row in the backbone (f included), C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from itpn_ray.models.acceleration.migration import (
    SURE,
    Store,
    Tokens,
    leavers,
    migrate,
    part,
    replenish,
    similarity,
    survivors,
    take,
)
from itpn_ray.rng import Stream, uniform_torch

BARRED = -1e4  # added to the score of a key that must not be read; finite in every float type


class Merged(NamedTuple):
    """What ToMe keeps beside its tokens (Bolya et al., "Token Merging: Your ViT But Faster")."""

    sizes: Tensor
    """(R, n) float32, how many tokens each has in it; 0 for places outside the image."""
    slots: Tensor
    """(R, f + N) int64, in which of the n tokens each first one now is."""


class State(NamedTuple):
    """The tokens of stage 3 between two halves of a block."""

    tokens: Tokens
    store: Store = ()
    merged: Merged | None = None

    def with_values(self, values: Tensor) -> State:
        """The same tokens with other values (R, n, C)."""
        return self._replace(tokens=self.tokens._replace(values=values))


@dataclass(frozen=True)
class Reducer:
    """One of the ways, for one size of map.

    Places 0 to N - 1 are the grid's; those of the tokens in front follow from N on.
    """

    kind: str
    counts: tuple[int, ...]
    """Tokens that leave each row in each block."""
    places: int
    """N."""
    front: int = 0
    """f."""
    outside: Tensor | None = None
    """(K, N) bool, True for places beyond the image's edge; None: none is."""

    def start(self, values: Tensor) -> State:
        """The state before the first block, of values (R, f + N, C)."""
        place = torch.arange(self.places + self.front, device=values.device)
        # Tokens in front get the last places, so those of the map keep their own.
        positions = place.roll(self.front).expand(values.shape[0], -1)
        merged = None
        if self.kind == "tome":
            sizes = torch.ones(positions.shape, device=values.device)
            gone = self.beyond(positions)
            merged = Merged(
                sizes if gone is None else sizes.masked_fill(gone, 0.0),
                place.expand(values.shape[0], -1),
            )
        return State(Tokens(values, positions), (), merged)

    def reduce(self, state: State, keys: Tensor, block: int) -> State:
        """The state after some tokens have left; keys (R, h, n, C / h) of the block's attention."""
        count = self.counts[block]
        if count == 0:
            return state
        tokens, gone = state.tokens, self.beyond(state.tokens.positions)
        if self.kind == "tome":
            return self._merge(state, keys, count, gone)
        if self.kind == "random":
            kept, left = part(tokens, self._draw(tokens.positions, count, gone, block))
            return State(kept, (*state.store, left))
        kept, store = migrate(tokens, keys, count, state.store, first=self.front, outside=gone)
        return State(kept, store)

    def restore(self, state: State) -> Tensor:
        """The full grid, (R, N, C), with every token at its place; those in front are left out."""
        values, positions = state.tokens
        if state.merged is not None:
            return take(values, state.merged.slots[:, self.front :])
        kept = Tokens(values[:, self.front :], positions[:, self.front :])
        return replenish(kept, state.store)

    def key_bias(self, state: State) -> Tensor | None:
        """What is added to the scores of each key, (R, 1, 1, n), or None.

        Places outside the image are not read. A merged token counts as often as the tokens in it:
        log of its size, ToMe's proportional attention.
        """
        gone = self.beyond(state.tokens.positions)
        bias = None
        if state.merged is not None and any(self.counts):
            # Sizes of 0 are outside the image, which is barred below.
            bias = state.merged.sizes.clamp(min=1.0).log()
        if gone is not None:
            bias = torch.zeros(gone.shape, device=gone.device) if bias is None else bias
            bias = bias.masked_fill(gone, BARRED)
        return None if bias is None else bias[:, None, None, :]

    def beyond(self, positions: Tensor) -> Tensor | None:
        """(R, n) bool, which tokens at `positions` are outside the image; None: none is."""
        if self.outside is None:
            return None
        # Rows are the windows of one image after another.
        rows = positions.shape[0] // self.outside.shape[0]
        front = self.outside.new_zeros(self.outside.shape[0], self.front)
        table = torch.cat([self.outside, front], dim=1)  # (K, N + f)
        return table.repeat(rows, 1).gather(1, positions)

    def _draw(self, positions: Tensor, count: int, gone: Tensor | None, block: int) -> Tensor:
        """Leavers (R, c) by numbers that depend on the place in the window and the block alone."""
        place = torch.arange(self.places, device=positions.device)
        # By place and block alone: in every image the same tokens leave.
        numbers = uniform_torch(0, block, place, Stream.REDUCTION, 1)[:, 0]
        scores = numbers[positions[:, self.front :]]
        # Places outside the image leave first.
        if gone is not None:
            scores = scores.masked_fill(gone[:, self.front :], SURE)
        return scores.topk(count, sorted=False).indices.sort(-1).values + self.front

    def _merge(self, state: State, keys: Tensor, count: int, gone: Tensor | None) -> State:
        """Average each leaver into its likest token of B, weighted by sizes."""
        assert state.merged is not None
        front, (values, positions) = self.front, state.tokens
        seen = None if gone is None else gone[:, front:]
        best, match = similarity(keys[:, :, front:], seen).max(-1)
        leaving = leavers(best, count, front)  # (R, c)
        staying = survivors(leaving, values.shape[1])
        target = match.gather(1, (leaving - front) // 2) * 2 + 1 + front  # where leavers go
        # The new slot of an old one: one less for every leaver before it.
        old = torch.arange(values.shape[1], device=values.device)
        slot = old - (leaving[:, None, :] < old[:, None]).sum(-1)
        # A leaver has no slot of its own any more; it takes that of the token it joined.
        slot = slot.scatter(1, leaving, slot.gather(1, target))
        sizes = state.merged.sizes
        summed = torch.zeros_like(staying, dtype=sizes.dtype).scatter_add(1, slot, sizes)
        fraction = (sizes / summed.clamp(min=1.0).gather(1, slot))[..., None].to(values.dtype)
        # Weights before the sum, so that no token is divided afterwards.
        weighted = values * fraction  # a token that nothing joins has fraction 1 and stays as it is
        index = slot.gather(1, leaving)[..., None].expand(-1, -1, values.shape[2])
        mean = take(weighted, staying).scatter_add(1, index, take(weighted, leaving))
        merged = Merged(summed, slot.gather(1, state.merged.slots))
        return State(Tokens(mean, positions.gather(1, staying)), (), merged)
