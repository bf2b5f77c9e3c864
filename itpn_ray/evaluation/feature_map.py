"""Features on a plane: the two directions in which they vary most (PCA)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from itpn_ray.data.synthetic.palette import class_colour
from itpn_ray.evaluation.plot import GREY, figure, save

MOST_DOTS = 5000
MOST_NAMES = 20


def project(features: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The first two principal components.

    Args:
        features: (n, d) float, n of at least 1.

    Returns:
        (n, 2) float64 coordinates, and the fraction of the variance along each. The sign is such
        that the largest coordinate of each axis is positive.
    """
    centred = features.double() - features.double().mean(0)
    values, directions = torch.linalg.eigh(centred.T @ centred)
    axes = directions[:, [-1, -2]]  # (d, 2); eigenvalues rise
    places = centred @ axes
    # An axis has no sign of its own: the largest place on each is made positive.
    largest = places.gather(0, places.abs().argmax(0, keepdim=True))  # (1, 2)
    # Features that are all alike have no variance to share out.
    total = max(float(values.clamp(min=0).sum()), 1e-30)
    shares = [max(0.0, float(value)) / total for value in (values[-1], values[-2])]
    return places * torch.where(largest < 0, -1.0, 1.0), (shares[0], shares[1])


def plot_features(features: Tensor, labels: Tensor, names: Sequence[str], path: Path) -> Path:
    """Draw features on a plane, coloured by class.

    Args:
        features: (n, d) float.
        labels: (n,) int64; -1 where there is no class.
        names: of the classes; listed for up to 20.
        path: the PNG to write.
    """
    places, shares = project(features)
    # A fixed choice, so that the same features are drawn alike.
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:MOST_DOTS]
    places, labels = places[order], labels[order]
    fig, axes = figure(7.0, 5.0)
    for label in labels.unique().tolist():
        dots = places[labels == label]
        colour = GREY if label < 0 else tuple(part / 255 for part in class_colour(label))
        # A name with dollar signs is no formula.
        name = "" if label < 0 else names[label].replace("$", r"\$")
        axes.scatter(dots[:, 0], dots[:, 1], s=8, color=colour, linewidths=0, label=name)
    for set_label, number in ((axes.set_xlabel, 0), (axes.set_ylabel, 1)):
        set_label(f"component {number + 1}: {shares[number]:.0%} of the variance", fontsize=8)
    axes.tick_params(labelsize=7)
    if 0 < len(names) <= MOST_NAMES:
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(fig, path)
