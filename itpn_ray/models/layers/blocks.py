"""The parts that trunks, pyramids and decoders are made of.

Shapes: B images, N tokens an image, C channels, h heads. Channels come last everywhere, so the
authors' 1x1 convolutions, and convolutions whose stride equals their kernel, are linear layers here
and no tensor is transposed between them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The authors' value, which is not PyTorch's 1e-5: their weights were trained with it.
EPS = 1e-6
PART_BYTES = 2 * 2**20
"""Of the tokens that go through an MLP together on a CPU; inside they take up to six times that."""


class LayerNorm(nn.LayerNorm):
    """A layer norm that gives what it is given: bf16 stays bf16, its sums are float32 either way.

    Autocast would write its input as float32, its output as float32 and that as bf16 again for the
    next layer: six times the memory traffic where activations are widest.
    """

    def __init__(self, width: int, eps: float = EPS) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C) of the same type."""
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class ConvLinear(nn.Linear):
    """A linear layer where the authors have a convolution: the same map, initialised like one."""


class Mlp(nn.Module):
    """Linear, GELU, linear; with `sub_norm` a layer norm before the last (paper Table 2, subln)."""

    def __init__(
        self, width: int, hidden: int, *, sub_norm: bool = False, conv: bool = False
    ) -> None:
        super().__init__()
        linear = ConvLinear if conv else nn.Linear
        self.fc1 = linear(width, hidden)
        self.norm = LayerNorm(hidden) if sub_norm else nn.Identity()
        self.fc2 = linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(self.norm(F.gelu(self.fc1(x))))


class SwiGlu(nn.Module):
    """SwiGLU with a layer norm before its last layer (paper Table 2, swiglu and subln).

    The gate and the value share one matrix: rows [0, hidden) are the gate's.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.norm = LayerNorm(hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.norm(F.silu(gate) * value))


class Attention(nn.Module):
    """Multi-head self-attention in parts, so that who needs the keys can have them.

    Args:
        width: C.
        heads: h; each head has C / h channels.
        key_bias: whether keys have a bias as queries and values do (iTPN; not Fast-iTPN).
        relative_grid: side S of the grid that offsets are learned for; None: no relative position.
    """

    def __init__(
        self, width: int, heads: int, *, key_bias: bool, relative_grid: int | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        self.q_bias = None if key_bias else nn.Parameter(torch.zeros(width))
        self.v_bias = None if key_bias else nn.Parameter(torch.zeros(width))
        self.relative = (
            None
            if relative_grid is None
            else nn.Parameter(torch.zeros((2 * relative_grid - 1) ** 2, heads))
        )
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (B, N, C), each (B, h, N, C / h)."""
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            # As BEiT: a bias of keys adds the same to all scores of a query, and softmax drops it.
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        # (B, N, 3C) -> (3, B, h, N, C / h)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """What queries (B, h, N, C / h) read from keys and values (B, h, M, C / h), (B, N, C).

        `bias` (1 or B, h, N, M) is added to the scores. Its last stride must be 1: on CUDA a fused
        kernel refuses any other. Rows of a length that is no multiple of 8 PyTorch pads by itself.
        """
        if bias is not None:
            # Fused attention wants one dtype.
            bias = bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))  # (B, h, N, C / h) -> (B, N, C)


class Block(nn.Module):
    """One block of stage 3 or of a decoder: attention, then an MLP, each with its residual.

    The two halves can be called apart: token migration happens between them.

    Args:
        attention: the attention.
        mlp: the MLP.
        width: C.
        layer_scale: first value of the scales on the two branches; None: no scales.
        eps: of the two layer norms.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: nn.Module,
        width: int,
        *,
        layer_scale: float | None = None,
        eps: float = EPS,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=eps)
        self.attention = attention
        self.norm2 = LayerNorm(width, eps=eps)
        self.mlp = mlp
        self.scale1 = new_scale(width, layer_scale)
        self.scale2 = new_scale(width, layer_scale)

    def attend(
        self, x: Tensor, bias: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The first half: (B, N, C) after attention, and the keys (B, h, N, C / h) it used."""
        q, k, v = self.attention.project(self.norm1(x))
        out = self.attention.attend(q, k, v, bias)
        return add_branch(x, out, self.scale1, keep), k

    def feed(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """The second half: (B, N, C) after the MLP."""
        return feed(x, self.norm2, self.mlp, self.scale2, keep)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, keep: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Map (B, N, C) to (B, N, C); `keep` weighs each image's two branches, (B,) each."""
        x, _ = self.attend(x, bias, None if keep is None else keep[0])
        return self.feed(x, None if keep is None else keep[1])


class EarlyBlock(nn.Module):
    """A channel MLP with its residual: what stages 1 and 2 and the pyramid are made of."""

    def __init__(self, mlp: Mlp, width: int, *, layer_scale: float | None = None) -> None:
        super().__init__()
        self.norm2 = LayerNorm(width)
        self.mlp = mlp
        self.scale2 = new_scale(width, layer_scale)

    def forward(self, x: Tensor, keep: Tensor | None = None, patches: object = None) -> Tensor:
        """Map (B, ..., C) to (B, ..., C); `keep` weighs each image's branch, (B,).

        Where the patches lie is for blocks that mix them, see `convolution.ConvBlock`.
        """
        del patches
        return feed(x, self.norm2, self.mlp, self.scale2, keep)


def feed(
    x: Tensor, norm: nn.Module, mlp: nn.Module, scale: Tensor | None, keep: Tensor | None
) -> Tensor:
    """Residual branch of an MLP over (B, ..., C), see `add_branch`; in parts where that is faster.

    On a CPU each large tensor is made of new pages, and getting them takes longer than what is
    computed in them: without gradients, which need them all, tokens go through a part at a time.
    """
    # Gradients need every hidden layer, compilers fuse by themselves, and `keep` goes by image.
    if (
        x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or keep is not None
    ):
        return add_branch(x, mlp(norm(x)), scale, keep)
    tokens = x.flatten(0, -2)  # (B, ..., C) -> (T, C)
    parts = tokens.split(max(1, PART_BYTES // (x.shape[-1] * x.element_size())))
    return torch.cat([add_branch(part, mlp(norm(part)), scale, None) for part in parts]).view_as(x)


def new_scale(width: int, value: float | None) -> nn.Parameter | None:
    """A learned scale for the channels of a residual branch, (C,), or None."""
    return None if value is None else nn.Parameter(torch.full((width,), float(value)))


def add_branch(x: Tensor, branch: Tensor, scale: Tensor | None, keep: Tensor | None) -> Tensor:
    """Residual sum x + scale * keep * branch over (B, ..., C); scale (C,), keep (B,)."""
    weight = scale
    if keep is not None:
        weight = keep.to(x.dtype).view(-1, *[1] * (x.dim() - 1))  # (B, 1, ..., 1)
        weight = weight if scale is None else weight * scale  # small: the branch is read once
    return x + branch if weight is None else torch.addcmul(x, branch, weight)


def patchify(images: Tensor, visible: Tensor | None = None) -> Tensor:
    """Images as the pixels of each 4x4 cell of each patch, (B, N or Nv, 4, 4, 48).

    Args:
        images: (B, 3, H, W) with H and W multiples of 16.
        visible: (B, Nv) int64 patches to take, row-major; None: all.

    A cell's 48 numbers are ordered channel, row, column, as a convolution kernel is.
    """
    batch, _, height, width = images.shape
    rows, columns = height // 16, width // 16
    # Both cuts at once, into patches of 16 and cells of 4: a view, copied once below.
    cells = images.reshape(batch, 3, rows, 4, 4, columns, 4, 4).permute(0, 2, 5, 3, 6, 1, 4, 7)
    # cells: (B, rows, columns, 4, 4, 3, 4, 4), still a view
    if visible is None:
        return cells.reshape(batch, rows * columns, 4, 4, 48)
    image = torch.arange(batch, device=images.device)[:, None]
    taken = cells[image, visible // columns, visible % columns]  # (B, Nv, 4, 4, 3, 4, 4)
    return taken.flatten(4)


def group_cells(x: Tensor) -> Tensor:
    """Each 2x2 neighbourhood of (B, N, 2m, 2m, C) side by side, row-major: (B, N, m, m, 4C)."""
    batch, tokens, side, _, width = x.shape
    half = side // 2
    # (B, N, h, 2, h, 2, C) -> (B, N, h, h, 2, 2, C)
    cells = x.view(batch, tokens, half, 2, half, 2, width).transpose(3, 4)
    return cells.reshape(batch, tokens, half, half, 4 * width)


def spread_cells(x: Tensor) -> Tensor:
    """The inverse of `group_cells`: (B, N, m, m, 4C) to (B, N, 2m, 2m, C)."""
    batch, tokens, side, _, width = x.shape
    # (B, N, s, s, 2, 2, C / 4) -> (B, N, s, 2, s, 2, C / 4)
    cells = x.view(batch, tokens, side, side, 2, 2, width // 4).transpose(3, 4)
    return cells.reshape(batch, tokens, 2 * side, 2 * side, width // 4)


def to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch-grouped tokens (B, H * W, m, m, C) as a feature map (B, C, H * m, W * m)."""
    batch, _, side, _, width = x.shape
    # (B, rows, columns, s, s, C) -> (B, C, rows, s, columns, s)
    x = x.view(batch, *grid, side, side, width).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(batch, width, grid[0] * side, grid[1] * side)


def from_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `to_map`: (B, C, H * m, W * m) to (B, H * W, m, m, C)."""
    batch, width, height, _ = x.shape
    side = height // grid[0]
    # (B, C, rows, s, columns, s) -> (B, rows, columns, s, s, C)
    x = x.view(batch, width, grid[0], side, grid[1], side).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch, grid[0] * grid[1], side, side, width)


def initialise(module: nn.Module) -> None:
    """Draw all weights of `module` from torch's generator, as the authors do.

    | layer                | weight                         | bias |
    |----------------------|--------------------------------|------|
    | nn.Linear            | truncated normal, sd 0.02      | 0    |
    | ConvLinear           | uniform, limit 1/sqrt(fan in)  | same |
    | nn.LayerNorm         | 1                              | 0    |
    | relative position    | 0 (made so)                    |      |
    | layer scale          | its first value (made so)      |      |

    Position tables, mask tokens and classification heads are drawn by the modules that own them.
    """
    for layer in module.modules():
        if isinstance(layer, ConvLinear):
            # The bounds of PyTorch's own start of convolutions.
            limit = 1.0 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -limit, limit)
            nn.init.uniform_(layer.bias, -limit, limit)
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
