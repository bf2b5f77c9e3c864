from __future__ import annotations

import torch
from torch import Tensor

from itpn_ray.models.detection.dino.levels import lay_out
from itpn_ray.models.detection.dino.parts import make_encoder, place_codes
from tests.models.detection.dinos import config

STRIDES = (8, 16, 32, 64)
SIZES = torch.tensor([[96, 128], [50, 70]])


def maps() -> dict[int, Tensor]:
    """Of a canvas of 96 x 128 pixels: the map of stride 64 has one row and misses 32 pixels."""
    return {stride: torch.zeros(2, 3, 96 // stride, 128 // stride) for stride in STRIDES}


def tokens() -> list[tuple[int, int, float, float]]:
    """Level, stride, and centre (x, y) in pixels of each token."""
    return [
        (level, stride, (column + 0.5) * stride, (row + 0.5) * stride)
        for level, stride in enumerate(STRIDES)
        for row in range(96 // stride)
        for column in range(128 // stride)
    ]


def test_tokens_are_valid_where_they_overlap_the_image():
    levels = lay_out(maps(), SIZES)
    assert levels.shapes == [(12, 16), (6, 8), (3, 4), (1, 2)]
    assert levels.starts.tolist() == [0, 192, 240, 252]
    for image, (height, width) in enumerate(SIZES.tolist()):
        expected = [x - s / 2 < width and y - s / 2 < height for _, s, x, y in tokens()]
        assert levels.mask[image].tolist() == expected
    assert levels.mask[0].all()


def test_anchors_sit_on_their_tokens_and_grow_with_the_level():
    boxes, allowed = lay_out(maps(), SIZES).anchors()
    for image, (height, width) in enumerate(SIZES.tolist()):
        for number, (level, stride, x, y) in enumerate(tokens()):
            side = 0.05 * 2**level
            wanted = torch.tensor([x / width, y / height, side, side])
            torch.testing.assert_close(boxes[image, number], wanted)
            inside = all(0.01 < value < 0.99 for value in wanted.tolist())
            overlaps = x - stride / 2 < width and y - stride / 2 < height
            assert allowed[image, number] == (inside and overlaps)


def test_a_token_reads_every_level_at_its_own_place():
    levels = lay_out(maps(), SIZES)
    encoder = make_encoder(config(levels=4))
    points = encoder.get_reference_points(levels.shapes, levels.ratios, device="cpu")
    for number, (_, _, x, y) in enumerate(tokens()):
        for level, stride in enumerate(STRIDES):
            rows, columns = levels.shapes[level]
            wanted = torch.tensor([x / (columns * stride), y / (rows * stride)])
            for image in range(2):
                torch.testing.assert_close(points[image, number, level], wanted)


def test_place_codes_span_the_valid_part():
    levels = lay_out(maps(), SIZES)
    codes = place_codes(levels, 8)
    assert [code.shape for code in codes] == [(2, h * w, 8) for h, w in levels.shapes]
    # Valid columns of the second image at stride 16: 5 of 8; rows: 4 of 6.
    across = torch.tensor([(column + 0.5) / 5 for column in range(5)]) * 2 * torch.pi
    down = torch.tensor([(row + 0.5) / 4 for row in range(4)]) * 2 * torch.pi
    grid = codes[1][1].view(6, 8, 8)[:4, :5]
    torch.testing.assert_close(grid[..., 4], across.sin().expand(4, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(grid[..., 0], down.sin()[:, None].expand(4, 5), atol=1e-4, rtol=0)
    slow = across / 20 ** (2 / 4)  # the second wavelength of two, of temperature 20
    torch.testing.assert_close(grid[..., 7], slow.cos().expand(4, 5), atol=1e-4, rtol=0)
