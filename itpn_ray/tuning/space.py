"""What a sweep varies: fields of pre-training and fine-tuning by their dotted paths.

Plain data and pure functions. A point of the space is a dict: name of a dimension -> its value.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.keywords import alternatives, in_words
from itpn_ray.rng import Stream, uniform

Value = bool | int | float | str | None
Point = Mapping[str, Value]

KINDS = ("choice", "uniform", "log")
STAGES = ("finetune", "pretrain")
"""Where a path is looked for, in this order."""
OWN = (
    *("run", "out", "data", "workers", "gpus", "seed", "tracking", "ray", "checkpoint"),
    *("model.init", "model.partial_init", "eval_every", "log_every"),
)
"""Fields and groups that the sweep sets itself, or that no trial should differ in."""
MOST_CORNERS = 1000


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One field and the values that it may take.

    Attributes:
        name: in points and tables: the field's own name, or its path where two would be equal.
        stage: ``pretrain`` or ``finetune``.
        path: dotted, in the settings of the stage.
        kind: ``choice``, ``uniform``, or ``log`` for uniform in the logarithm.
        values: the choices; otherwise the lowest and the highest value.
        whole: whether values between the ends are whole numbers.
    """

    name: str
    stage: str
    path: str
    kind: str
    values: tuple[Value, ...]
    whole: bool = False

    def at(self, share: float) -> Value:
        """The value at a share of the range, in [0, 1)."""
        share = float(share)  # not NumPy's, which JSON does not know
        if self.kind == "choice":
            return self.values[int(share * len(self.values))]
        low, high = self.ends
        if self.whole:
            # The floor below would give the highest number no share otherwise.
            high += 1
        if self.kind == "log":
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return math.floor(value) if self.whole else value

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        low, high = self.values
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        return low, high


def parse_space(
    texts: Sequence[str], pretrain: ExperimentConfig, finetune: ExperimentConfig
) -> tuple[Dimension, ...]:
    """The dimensions that texts such as ``optim.lr log 1e-4 3e-3`` describe.

    A path belongs to fine-tuning where that has such a field, otherwise to pre-training; with
    ``pretrain.`` or ``finetune.`` before it, to that one.

    Args:
        texts: path, kind and values of each, separated by blanks.
        pretrain: settings of pre-training.
        finetune: settings of fine-tuning.

    Raises:
        ConfigError: a path is unknown, or values do not go with its field.
    """
    stages = {"finetune": finetune, "pretrain": pretrain}
    found = [_parse(text, stages) for text in texts]
    paths = [(one.stage, one.path) for one in found]
    for one in found:
        if paths.count((one.stage, one.path)) > 1:
            raise ConfigError(f"space.{one.path}", None, "is given twice", "Leave one of them out")
    last = [one.name for one in found]
    return tuple(
        one
        if last.count(one.name) == 1
        else dataclasses.replace(one, name=f"{one.stage}.{one.path}")
        for one in found
    )


def spell_space(words: Sequence[str]) -> list[str]:
    """Command-line words with ``--space.PATH KIND VALUES`` spelled as one ``--space`` of texts."""
    rest: list[str] = []
    texts: list[str] = []
    into = rest
    for word in words:
        if word.startswith("--"):
            into = texts if word.startswith("--space.") else rest
        if word.startswith("--space."):
            texts.append(word.removeprefix("--space.").replace("=", " ", 1))
        elif into is texts:
            texts[-1] += f" {word}"
        else:
            rest.append(word)
    return [*rest, "--space", *texts] if texts else rest


def stage_of(dimensions: Sequence[Dimension], stage: str) -> tuple[Dimension, ...]:
    """The dimensions of one stage."""
    return tuple(one for one in dimensions if one.stage == stage)


def part(point: Point, dimensions: Sequence[Dimension]) -> dict[str, Value]:
    """What a point says of some dimensions."""
    return {one.name: point[one.name] for one in dimensions}


def applied(
    config: ExperimentConfig, dimensions: Sequence[Dimension], point: Point
) -> ExperimentConfig:
    """The settings of a stage with the values of a point.

    Raises:
        ConfigError: values that cannot be used, or not together.
    """
    plain = to_dict(config)
    for one in dimensions:
        *groups, name = one.path.split(".")
        group = plain
        for key in groups:
            group = group[key]
        group[name] = point[one.name]
    return from_dict(plain)


def combinations(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    """All combinations of choices, and of the ends of ranges; without dimensions the empty one."""
    for values in itertools.product(*(one.values for one in dimensions)):
        yield {one.name: value for one, value in zip(dimensions, values, strict=True)}


def check_corners(config: ExperimentConfig, dimensions: Sequence[Dimension]) -> None:
    """Refuse a space of which a corner is no valid settings of its stage.

    Raises:
        ConfigError: names the field.
    """
    # Corners multiply with every dimension; those left out are refused when a trial draws them.
    for point in itertools.islice(combinations(dimensions), MOST_CORNERS):
        applied(config, dimensions, point)


def quasi_random(dimensions: Sequence[Dimension], count: int, seed: int) -> list[dict[str, Value]]:
    """Points that fill the space evenly; the first ones do not depend on ``count``.

    The additive recurrence of the generalised golden ratio (M. Roberts, "The unreasonable
    effectiveness of quasirandom sequences", 2018), shifted by a draw of the seed.
    """
    size = len(dimensions)
    # Any positive start leads to the same root.
    ratio = 2.0
    for _ in range(64):  # the root of x^(d + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (size + 1))
    start = uniform(seed, 0, [0], Stream.SWEEP, size)[0]
    return [
        # Roberts' R sequence: along each axis a power of 1 / ratio further.
        {
            one.name: one.at((start[axis] + (index + 1) * ratio ** -(axis + 1)) % 1.0)
            for axis, one in enumerate(dimensions)
        }
        for index in range(count)
    ]


def random_points(dimensions: Sequence[Dimension], count: int, seed: int) -> list[dict[str, Value]]:
    """Points drawn alone, each a function of the seed and its number."""
    # 1 in the place of the epoch, for 0 is the shift of the quasi-random points.
    draws = uniform(seed, 1, range(count), Stream.SWEEP, len(dimensions))
    return [
        {one.name: one.at(share) for one, share in zip(dimensions, row, strict=True)}
        for row in draws
    ]


def grid(dimensions: Sequence[Dimension]) -> list[dict[str, Value]]:
    """Every combination of choices.

    Raises:
        ConfigError: a dimension is a range.
    """
    for one in dimensions:
        if one.kind != "choice":
            raise ConfigError(
                f"space.{one.path}", one.kind, "has no grid", "Name its values: choice V1 V2"
            )
    return list(combinations(dimensions))


def _parse(text: str, stages: Mapping[str, ExperimentConfig]) -> Dimension:
    words = text.split()
    where = f"space.{words[0]}" if words else "space"
    if len(words) < 3:
        raise ConfigError(
            where, text, "is not PATH KIND VALUES", "Write such as optim.lr log 1e-4 3e-3"
        )
    kind, path = words[1], words[0].replace("-", "_")
    checks.one_of(where, kind, KINDS)
    prefix, _, rest = path.partition(".")
    if prefix in stages:
        stages, path = {prefix: stages[prefix]}, rest
    stage = next((name for name in STAGES if name in stages and _has(stages[name], path)), None)
    if stage is None:
        known = {name for config in stages.values() for name in _paths(config)}
        group = path.rpartition(".")[0]
        # First those of the same group: the last word is misspelt more often than the group.
        known = {name for name in known if name.startswith(f"{group}.")} or known
        raise ConfigError(where, path, "is no field", checks.nearest(path, known))
    if checks.within(path, OWN):
        raise ConfigError(where, path, "is set by the sweep itself", "Leave it out")
    hint = _field_type(stages[stage], path)
    values = tuple(_value(where, word, hint) for word in words[2:])
    whole = int in alternatives(hint)
    if kind != "choice":
        _check_range(where, kind, values)
        if stage == "pretrain":
            raise ConfigError(
                where,
                kind,
                "would ask for a pre-training of its own for each trial",
                "Name its values: choice V1 V2",
            )
    elif len(set(values)) < len(values):
        raise ConfigError(where, values, "names a value twice", "Leave one of them out")
    name = path.rpartition(".")[2]
    return Dimension(name=name, stage=stage, path=path, kind=kind, values=values, whole=whole)


def _check_range(where: str, kind: str, values: tuple[Value, ...]) -> None:
    # To Python True is an int.
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ConfigError(
            where, values, "is no range", f"Write {kind} LOWEST HIGHEST, or choice V1 V2"
        )
    if kind == "log" and numbers[0] <= 0:
        raise ConfigError(where, numbers[0], "has no logarithm", "Start above 0, or use uniform")


def _has(config: ExperimentConfig, path: str) -> bool:
    return path in set(_paths(config))


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a settings object that hold a value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _field_type(config: Any, path: str) -> Any:
    *groups, name = path.split(".")
    for group in groups:
        config = getattr(config, group)
    return typing.get_type_hints(type(config))[name]


def _value(where: str, word: str, hint: Any) -> Value:
    """A word as a value of a field's type.

    Raises:
        ConfigError: it is none.
    """
    kinds = alternatives(hint)
    if type(None) in kinds and word.lower() == "none":
        return None
    if bool in kinds and word.lower() in ("true", "false"):
        return word.lower() == "true"
    # int first: 3 stays a whole number in fields that take both.
    for kind in (kind for kind in (int, float, str) if kind in kinds):
        try:
            value = kind(word)
        except ValueError:
            continue
        # float() reads "nan" and "inf" too.
        if not isinstance(value, float) or math.isfinite(value):
            return value
    shown = in_words(kinds)
    raise ConfigError(
        where, word, f"is no value of the field, which is {shown}", "Write such a value"
    )
