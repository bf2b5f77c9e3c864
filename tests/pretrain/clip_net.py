"""A small CLIP with OpenAI's structure and names, written anew for the tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, DEPTH, HEADS, OUT, PATCH = 64, 2, 2, 32, 16


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH)
        self.gelu = QuickGelu()
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.mlp = Mlp()
        self.ln_2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block() for _ in range(DEPTH)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class Visual(nn.Module):
    """Normalised pixels (B, 3, S, S) -> projected tokens of all patches (B, L, OUT)."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        patches = (image_size // PATCH) ** 2
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(patches + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer()
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, OUT) / 8)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 1:]) @ self.proj


class Clip(nn.Module):
    """The whole file: the image encoder, and something that a teacher has no use for."""

    def __init__(self, image_size: int = 64) -> None:
        super().__init__()
        self.visual = Visual(image_size)
        self.token_embedding = nn.Embedding(10, WIDTH)
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images)


def make_clip(image_size: int = 64) -> Clip:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    return Clip(image_size).eval()
