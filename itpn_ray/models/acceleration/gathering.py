"""Windows with gathering tokens (paper 4.2, Fig. 4, Table 7).

Shapes: B images, (H, W) grid of an image, K windows an image, R = B * K rows, n tokens of a
window in the backbone, N = window height * window width places in it, C channels, h heads. A row
with a gathering token has it in front: (R, 1 + n, C).

What the paper leaves open, and where each reading is:
- how a map that windows do not divide is cut up: `Windows.cover`;
- what a gathering token starts as: `Gathering.token`, one for all windows;
- how it gathers: it takes part in its window's attention as one more token (Fig. 4, top);
- how all tokens read the gathering tokens: `read_gathered`, a second attention step of the block
  with the same weights, norm and residual (Fig. 4, bottom), gathering tokens among the readers;
- what offset a relative position has: between two tokens of a window their rows and columns, in
  cross attention those of their windows; a gathering token has no position inside its window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Acceleration
from itpn_ray.models.layers.blocks import Attention, Block
from itpn_ray.models.layers.position import Grid

REACH = 7  # windows: offsets in cross attention that are further apart share one bias


@dataclass(frozen=True)
class Windows:
    """How a grid is cut into windows of one size."""

    grid: Grid
    """(H, W) tokens of the image."""
    count: Grid
    """Windows down and across."""
    side: Grid
    """Tokens of a window down and across."""

    @staticmethod
    def cover(grid: Grid, largest: int) -> Windows:
        """The fewest windows with sides up to `largest` tokens, and those as small as they can be.

        Equal windows then reach beyond the grid by less than one token a window and side: a grid
        of 64 takes five windows of 13, not of 14, for `largest` 14. 0 stands for one window.
        """
        # A largest side of 0 makes one window of the whole map.
        count = tuple(-(-length // (largest or length)) for length in grid)
        # As equal as they can be, so that little is padded.
        side = tuple(-(-length // number) for length, number in zip(grid, count, strict=True))
        return Windows(grid, (count[0], count[1]), (side[0], side[1]))

    @property
    def number(self) -> int:
        """K."""
        return self.count[0] * self.count[1]

    @property
    def places(self) -> int:
        """N, tokens that a window has room for."""
        return self.side[0] * self.side[1]

    @property
    def padding(self) -> Grid:
        """Rows and columns by which the windows reach beyond the grid."""
        return (
            self.count[0] * self.side[0] - self.grid[0],
            self.count[1] * self.side[1] - self.grid[1],
        )

    def split(self, x: Tensor) -> Tensor:
        """Cut (B, H * W, C) into windows (B * K, N, C), zeros where they reach beyond the grid."""
        # One window is the map itself, and reaches nowhere beyond it.
        if self.number == 1:
            return x
        (down, across), (height, width) = self.count, self.side
        x = x.unflatten(1, self.grid)  # (B, H, W, C)
        if any(self.padding):
            # From the last axis on: channels, columns, rows.
            x = F.pad(x, (0, 0, 0, self.padding[1], 0, self.padding[0]))
        x = x.unflatten(2, (across, width)).unflatten(1, (down, height))
        # (B, down, height, across, width, C) -> (B * K, N, C)
        return x.transpose(2, 3).reshape(-1, self.places, x.shape[-1])

    def join(self, x: Tensor) -> Tensor:
        """The inverse of `split`: (B * K, N, C) to (B, H * W, C), cropped to the grid."""
        if self.number == 1:
            return x
        (down, across), (height, width) = self.count, self.side
        x = x.reshape(-1, down, across, height, width, x.shape[-1]).transpose(2, 3)
        # (B, down, height, across, width, C) -> (B, H, W, C)
        x = x.flatten(3, 4).flatten(1, 2)[:, : self.grid[0], : self.grid[1]]
        return x.flatten(1, 2)

    def outside(self, device: torch.device) -> Tensor | None:
        """(K, N) bool, True for places beyond the grid; None if there are none."""
        if not any(self.padding):
            return None
        # What padding adds to ones are zeros.
        inside = torch.ones(1, self.grid[0] * self.grid[1], 1, dtype=torch.bool, device=device)
        return ~self.split(inside)[..., 0]


class Gathering(nn.Module):
    """What windows learn: the gathering token, and the tables of relative position.

    Args:
        acceleration: which of them there are.
        width: C.
        heads: h.
        depth: blocks of stage 3; each has its own tables.
        own_tables: whether the trunk's attentions have learned offsets already (iTPN with relative
            position); windows then use those, and no table is added for them.
    """

    def __init__(
        self, acceleration: Acceleration, width: int, heads: int, depth: int, own_tables: bool
    ) -> None:
        super().__init__()
        kind = acceleration.relative_position
        # Offsets inside a window reach from -(w - 1) to w - 1.
        inside, cross = 2 * acceleration.window - 1, 2 * REACH + 1
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if acceleration.gathering else None
        self.window_bias = (
            nn.Parameter(torch.zeros(depth, heads, inside, inside))
            if kind != "none" and not own_tables
            else None
        )
        self.cross_bias = (
            nn.Parameter(torch.zeros(depth, heads, cross, cross))
            if kind == "windows+cross"
            else None
        )
        if self.token is not None:
            nn.init.trunc_normal_(self.token, std=0.02)

    @staticmethod
    def for_trunk(
        acceleration: Acceleration, width: int, heads: int, depth: int, own_tables: bool
    ) -> Gathering | None:
        """A new module, or None if there is nothing to learn."""
        gathering = Gathering(acceleration, width, heads, depth, own_tables)
        return gathering if any(True for _ in gathering.parameters()) else None

    def same_shapes(self, other: Gathering | None) -> bool:
        """Whether `other` has parameters of the same names and shapes."""
        if other is None:
            return False
        return _shapes(self) == _shapes(other)

    @torch.no_grad()
    def learn_from(self, other: Gathering | None) -> Gathering:
        """Itself, with the values of those parameters that `other` has in the same shape."""
        held = {} if other is None else dict(other.named_parameters())
        for name, parameter in self.named_parameters():
            if name in held and held[name].shape == parameter.shape:
                parameter.copy_(held[name])
        return self

    def across(self, block: int, windows: Windows) -> Tensor | None:
        """Bias of a block between windows, (h, K, K): the reader's, then the gathering token's."""
        if self.cross_bias is None:
            return None
        table = self.cross_bias[block]
        rows = _reach(windows.count[0], table.device)[:, None, :, None]
        columns = _reach(windows.count[1], table.device)[None, :, None, :]
        # (h, down, across, down, across) -> (h, K, K)
        return table[:, rows, columns].flatten(3, 4).flatten(1, 2)


def refuse_other_windows(network: Any, window: int) -> None:
    """Refuse windows whose offsets a trained network has learned for another size.

    Raises:
        ConfigError: its tables would be dropped, and its accuracy would not be that of what it
            learned.
    """
    learned = any(
        isinstance(part, Gathering) and part.window_bias is not None for part in network.modules()
    )
    if not learned or not window:
        return
    trained = network.acceleration.window
    if window != trained:
        raise ConfigError(
            "window",
            window,
            f"the network has learned the offsets inside windows of {trained} tokens",
            f"Use {trained}, or 0 for the whole map",
        )


def offset_bias(table: Tensor, side: Grid, pairs: Tensor) -> Tensor:
    """Bias for every pair of places of a window, (h, N, N), from offsets (h, 2S - 1, 2T - 1).

    The table's middle entry is offset 0; a window may be smaller than the S x T it was made for.
    `pairs` is `relative_index(side)`.
    """
    # A smaller window has the offsets in the middle of the table.
    middle = table.shape[1] // 2, table.shape[2] // 2
    near = table[
        :,
        middle[0] - side[0] + 1 : middle[0] + side[0],
        middle[1] - side[1] + 1 : middle[1] + side[1],
    ]
    return near.flatten(1)[:, pairs]


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _reach(count: int, device: torch.device) -> Tensor:
    """Table rows of the offsets between `count` windows in a line, (count, count) int64."""
    line = torch.arange(count, device=device)
    return (line[:, None] - line[None, :]).clamp(-REACH, REACH) + REACH


def read_gathered(
    block: Block, x: Tensor, number: int, bias: Tensor | None = None, keep: Tensor | None = None
) -> Tensor:
    """All tokens after reading the gathering tokens of all windows of their image.

    With queries Q from all tokens, and keys K_g and values V_g from the gathering tokens only, all
    after the block's first norm: x + scale * keep * proj(softmax(Q K_g^T / sqrt(C / h) + bias) V_g)
    in heads. As there are few gathering tokens, all matrices are multiplied into K_g and V_g rather
    than into all tokens, and so are scales and biases (the shares of a head sum to 1): the same
    numbers for about h * K / C of the work, and one pass over the tokens less.

    Args:
        block: the block, which lends its weights.
        x: (B * K, 1 + n, C), gathering token first.
        number: K.
        bias: (h, K, K) for the reader's window and the gathering token's, or None.
        keep: (B,), weighs each image's branch, or None.

    Returns:
        (B * K, 1 + n, C).
    """
    attention, heads = block.attention, block.attention.heads
    length, size = x.shape[1], x.shape[2] // heads  # 1 + n, C / h
    readers = block.norm1(x).view(-1, number * length, x.shape[2])  # (B, K * (1 + n), C)
    _, key, value = attention.project(readers[:, ::length])  # (B, h, K, C / h)
    # The usual scale of attention, on the few keys and not on all scores.
    key = key * size**-0.5
    query_weight = attention.qkv.weight[: heads * size].unflatten(0, (heads, size))  # (h, C/h, C)
    output_weight = attention.proj.weight.unflatten(1, (heads, size))  # (C, h, C/h)
    asked = torch.einsum("bhks,hsc->bhkc", key, query_weight).flatten(1, 2)  # (B, h * K, C)
    answers = torch.einsum("bhks,chs->bhkc", value, output_weight).flatten(1, 2)  # (B, h * K, C)
    # Heads are summed later, so each carries its part of the bias.
    answers = answers + attention.proj.bias / heads
    answers = answers if block.scale1 is None else answers * block.scale1
    answers = answers if keep is None else answers * keep.to(answers.dtype)[:, None, None]
    scores = readers @ asked.mT  # (B, K * (1 + n), h * K)
    shift = query_shift(attention, key)
    if shift is not None:
        scores = scores + shift.flatten(1)[:, None, :].to(scores.dtype)
    scores = scores.view(-1, number, length, heads, number)  # (B, K, 1 + n, h, K)
    if bias is not None:
        scores = scores + bias.transpose(0, 1)[:, None].to(scores.dtype)  # (K, 1, h, K)
    shares = scores.softmax(-1).to(scores.dtype).view(-1, number * length, heads * number)
    answers, whole = answers.to(shares.dtype), x.view_as(readers)
    if whole.dtype == shares.dtype:
        return torch.baddbmm(whole, shares, answers).view_as(x)
    return (whole + shares @ answers).view_as(x)  # autocast: the tokens keep their precision


def query_shift(attention: Attention, key: Tensor) -> Tensor | None:
    """What the queries' bias adds to the scores of keys (B, h, K, C / h): (B, h, K), or None."""
    whole = attention.qkv.bias
    # The first third of a bias of all three is the queries'.
    bias = attention.q_bias if whole is None else whole[: attention.proj.in_features]
    if bias is None:
        return None
    return (key @ bias.view(attention.heads, -1, 1)).squeeze(-1)
