"""How much an image of each class counts in the loss, where classes occur unevenly."""

from __future__ import annotations

from collections.abc import Sequence

from itpn_ray import checks
from itpn_ray.errors import ConfigError

BALANCED = "balanced"
FIELD = "task.class_weights"


def named_weights(texts: Sequence[str]) -> dict[str, float]:
    """The weights that texts such as ``cat=2`` give, by class; none for ``balanced``.

    Raises:
        ConfigError: a text is no class with a positive number, or a class is named twice.
    """
    if list(texts) == [BALANCED]:
        return {}
    weights: dict[str, float] = {}
    for text in texts:
        # At the last "=", for a class's name may contain one.
        name, equals, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            # 0 is refused below, together with numbers that are no weights.
            weight = 0.0
        if not equals or not 0 < weight < float("inf"):
            raise ConfigError(
                FIELD, text, "is no CLASS=WEIGHT", f"Write {BALANCED}, or such as cat=2 dog=0.5"
            )
        if name in weights:
            raise ConfigError(FIELD, text, "names a class twice", "Leave one of them out")
        weights[name] = weight
    return weights


def class_weights(
    texts: Sequence[str], classes: Sequence[str], counts: Sequence[int]
) -> list[float]:
    """A weight for each class, in their order.

    ``balanced`` weighs a class by N / (K n), so that all K classes together count the same and an
    image of the N counts 1 on average; a class without images counts 1. Given weights are taken as
    they are, and classes that are not named count 1.

    Args:
        texts: of the setting.
        classes: names.
        counts: training images of each.

    Raises:
        ConfigError: a class is named that is not there.
    """
    named = named_weights(texts)
    for name in named:
        checks.one_of(FIELD, name, classes)
    if named:
        return [named.get(name, 1.0) for name in classes]
    # K of the docstring: classes without images share nothing of the total.
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 1.0 for count in counts]
