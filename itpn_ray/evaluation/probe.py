"""Linear probes: how well classes can be told apart by a linear classifier on fixed inputs.

Shapes: n images, d inputs, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.evaluation.precision import whole_float32

PIXEL_SIDE = 32
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 200
_HELD_OUT = 0.2


def linear_probe(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, *, seed: int = 0
) -> float:
    """Accuracy of multinomial logistic regression on standardised features.

    The strength of its L2 penalty is the one that does best on a fifth of the training images;
    it is then fitted anew to all of them.

    Args:
        train: (n, d) features.
        train_labels: (n,) int64.
        val: (m, d) features.
        val_labels: (m,) int64.
        seed: of the choice of that fifth.

    Returns:
        Share of right predictions in [0, 1].
    """
    mean, std = train.float().mean(0), train.float().std(0)
    scale = torch.where(std > 1e-6, std, torch.inf)  # inputs that never change tell nothing
    known, asked = (train.float() - mean) / scale, (val.float() - mean) / scale
    classes = int(torch.cat([train_labels, val_labels]).max()) + 1
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    # One image at least, or there is nothing to choose the penalty by.
    held = order[: max(1, round(_HELD_OUT * len(order)))].to(known.device)
    kept = order[len(held) :].to(known.device)

    def score(strength: float) -> float:
        weights = fit_logistic(known[kept], train_labels[kept], classes, strength)
        return _accuracy(weights, known[held], train_labels[held])

    strength = max(STRENGTHS, key=score)
    weights = fit_logistic(known, train_labels, classes, strength)
    return _accuracy(weights, asked, val_labels)


def pixel_probe(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, *, seed: int = 0
) -> float:
    """Accuracy of a linear probe on raw pixels, the yardstick for what a network adds.

    Images are averaged down to 32 x 32 pixels where they are larger.

    Args:
        train: (n, 3, S, S) uint8.
        train_labels: (n,) int64.
        val: (m, 3, S, S) uint8.
        val_labels: (m,) int64.
        seed: as in `linear_probe`.

    Returns:
        Share of right predictions in [0, 1].
    """
    return linear_probe(_pixels(train), train_labels, _pixels(val), val_labels, seed=seed)


def fit_logistic(inputs: Tensor, labels: Tensor, classes: int, strength: float) -> Tensor:
    """Fit softmax regression with an L2 penalty by L-BFGS from zero.

    Args:
        inputs: (n, d) float.
        labels: (n,) int64.
        classes: C.
        strength: of the penalty on the weights, not on the offsets.

    Returns:
        (d + 1, C): weights, and the offsets as the last row.
    """
    weights = inputs.new_zeros(inputs.shape[1] + 1, classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(_logits(weights, inputs), labels)
        # Offsets are not penalised: classes of unequal size need them.
        value = value + strength * weights[:-1].square().sum() / 2
        value.backward()
        return value

    with whole_float32(inputs.device):
        solver.step(loss)
    return weights.detach()


def _logits(weights: Tensor, inputs: Tensor) -> Tensor:
    return torch.addmm(weights[-1], inputs, weights[:-1])  # (n, C)


def _accuracy(weights: Tensor, inputs: Tensor, labels: Tensor) -> float:
    with whole_float32(inputs.device):
        guesses = _logits(weights, inputs).argmax(1)
    return float((guesses == labels).double().mean())


def _pixels(images: Tensor) -> Tensor:
    """(n, 3, S, S) uint8 -> (n, 3 * s * s) float in [0, 1], s = min(S, 32)."""
    side = min(PIXEL_SIDE, images.shape[-1])
    # In parts, because as float the whole set is four times as large.
    parts = [F.adaptive_avg_pool2d(part.float() / 255, side) for part in images.split(512)]
    return torch.cat(parts).flatten(1)
