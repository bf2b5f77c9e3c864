from __future__ import annotations

import math

import torch

from itpn_ray.models.detection.dino.boxes import EDGE, logit, sine_code, to_pixels, to_shares

SIZES = torch.tensor([[100, 200], [64, 32]])
BOXES = torch.tensor([[[10.0, 20, 30, 60]], [[0.0, 0, 32, 64]]])


def test_shares_of_the_valid_part_and_back():
    shares = to_shares(BOXES, SIZES)
    expected = torch.tensor([[[0.1, 0.4, 0.1, 0.4]], [[0.5, 0.5, 1.0, 1.0]]])
    torch.testing.assert_close(shares, expected)
    torch.testing.assert_close(to_pixels(shares, SIZES), BOXES)


def test_boxes_end_at_the_border():
    shares = torch.tensor([[[0.9, 0.1, 0.4, 0.4]], [[0.5, 0.5, 2.0, 0.5]]])
    expected = torch.tensor([[[140.0, 0, 200, 30]], [[0.0, 16, 32, 48]]])
    torch.testing.assert_close(to_pixels(shares, SIZES), expected)


def test_logit_undoes_the_sigmoid_and_stays_finite():
    values = torch.linspace(-6, 6, 13)
    torch.testing.assert_close(logit(values.sigmoid()), values, atol=1e-4, rtol=0)
    ends = logit(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends.sigmoid(), torch.tensor([EDGE, 1 - EDGE]))


def test_sine_code_by_its_formula():
    box = torch.tensor([[[0.3, 0.6, 0.2, 0.9]]])
    expected = []
    for value in (0.6, 0.3, 0.2, 0.9):  # y, x, width, height
        for pair in range(2):  # four numbers each: sine and cosine at two wavelengths
            angle = 2 * math.pi * value / 10000 ** (2 * pair / 4)
            expected += [math.sin(angle), math.cos(angle)]
    torch.testing.assert_close(sine_code(box, 8)[0, 0], torch.tensor(expected))
