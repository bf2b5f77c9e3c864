"""The confusion matrix as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from itpn_ray.evaluation.plot import figure, save

_MOST_NAMES = 40
_MOST_NUMBERS = 12
_LONGEST_NAME = 24


def plot_confusion(confusion: Tensor, names: Sequence[str], path: str | Path) -> Path:
    """Draw the matrix; each row is shared out over the predictions, so the diagonal is recall.

    Args:
        confusion: (C, C) counts, [label, predicted].
        names: class names; shown for up to 40 classes, cut to 24 characters; numbers in the cells
            for up to 12.
        path: the PNG to write.

    Returns:
        The path written.
    """
    counts = confusion.double().numpy()
    # A class without images has a row of zeros, not of nan.
    fraction = counts / counts.sum(1, keepdims=True).clip(min=1)
    classes = len(names)
    side = min(2.2 + 0.26 * classes, 10.0)
    fig, axes = figure(side + 0.3, side)
    image = axes.imshow(100 * fraction, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted", ylabel="label")
    if classes <= _MOST_NAMES:
        # Longer names would leave the matrix itself no room.
        names = [n if len(n) <= _LONGEST_NAME else f"{n[: _LONGEST_NAME - 1]}…" for n in names]
        # A name with dollar signs is no formula.
        axes.set_xticks(range(classes), names, parse_math=False, rotation=45, ha="right")
        for tick in axes.get_xticklabels():
            tick.set_rotation_mode("anchor")
        axes.set_yticks(range(classes), names, parse_math=False)
    if classes <= _MOST_NUMBERS:
        for row in range(classes):
            for column in range(classes):
                # Dark cells need light numbers.
                shade = "white" if fraction[row, column] > 0.55 else "#333333"
                text = f"{100 * fraction[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=7)
    else:
        bar = fig.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
        bar.set_label("of the label's images, %", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    return save(fig, path)
