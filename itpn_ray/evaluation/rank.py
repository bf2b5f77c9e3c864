"""Effective rank of features: how many directions they use, and whether they have collapsed.

RankMe (Garrido et al., "RankMe: Assessing the downstream performance of pretrained self-supervised
representations by their rank", 2023, eq. 1): the exponential of the entropy of the singular values,
divided by their sum. Between 1, where all features are multiples of one, and their dimension.

Shapes: n images, d features.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7


def gram(features: Tensor) -> Tensor:
    """The (d, d) float64 matrix of products of (n, d) features; sums of parts add up."""
    wide = features.double()
    # float64: products of many thousand images lose digits in float32.
    return wide.T @ wide


def rankme(products: Tensor) -> float:
    """RankMe of the features whose `gram` matrix is given, in [1, d]; 0 where all are zero."""
    # The singular values of the features are the roots of the eigenvalues.
    values = torch.linalg.eigvalsh(products.cpu()).clamp(min=0).sqrt()
    if not values.sum() > 0:
        return 0.0
    # RankMe's epsilon, so that a direction without variance has a logarithm.
    fractions = values / values.sum() + _EPSILON
    return float(torch.exp(-(fractions * fractions.log()).sum()))
