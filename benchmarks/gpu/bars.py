"""What the suite asks of a card, read from the results of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.results import PartResult
from benchmarks.gpu.scale import SCALES

Lines = list[dict[str, Any]]
ALL = "all together, r = 0.3"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One demand, and what was reached; None where it was not measured."""

    text: str
    reached: float | None
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is met; None where it was not measured."""
        if self.reached is None:
            return None
        above = self.least is None or self.reached >= self.least
        return above and (self.most is None or self.reached <= self.most)

    def told(self) -> str:
        """One line of Markdown."""
        verdict = {None: "not measured", True: "met", False: "missed"}[self.met]
        bound = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        value = "" if self.reached is None else f": {self.reached:.3g}"
        return f"- {verdict}: {self.text}, {bound}{value}"


def bars(parts: Mapping[str, PartResult]) -> list[Bar]:
    """Every demand, in the order of the parts."""
    found = {name: part.lines for name, part in parts.items()}
    return [
        *_trunk(parts.get("trunk")),
        *_acceleration(found.get("acceleration", [])),
        *_pretraining(found.get("pretraining", [])),
        Bar(
            text="the training loop's time over the step's alone",
            reached=_value(found.get("input", []), "loop_ratio", what="training loop"),
            most=1.03,
        ),
    ]


def _trunk(part: PartResult | None) -> Iterator[Bar]:
    lines, main = (part.lines, SCALES[part.scale].main) if part else ([], "")
    for what, least in (("forward", 0.45), ("training step", 0.40)):
        chosen = {"what": what, "network": main, "mode": "compiled"}
        text = f"compiled {what} at the first size"
        yield Bar(text=f"MFU of the {text}", reached=_value(lines, "mfu", **chosen), least=least)
        ratio = _value(lines, "ratio", **chosen)
        yield Bar(text=f"operations a second of the {text} over ViT-B's", reached=ratio, least=1.0)


def _acceleration(lines: Lines) -> Iterator[Bar]:
    yield Bar(
        text="compiled trunk, all accelerations together",
        reached=_value(lines, "speed_up", mode="compiled", variant=ALL),
        least=1.9,
    )
    reached = [line["reached"] for line in lines if line.get("mode") == "compiled"
               and line.get("variant") != "plain" and "reached" in line]  # fmt: skip
    yield Bar(
        text="compiled trunk, the variant furthest from what its multiply-adds promise",
        reached=min(reached, default=None),
        least=0.9,
    )
    yield Bar(
        text="whole Mask R-CNN, all accelerations together",
        reached=_value(lines, "speed_up", network="Mask R-CNN", variant=ALL),
        least=1.7,
    )


def _pretraining(lines: Lines) -> Iterator[Bar]:
    ratios = [line["masked_ratio"] for line in lines if "masked_ratio" in line]
    yield Bar(
        text="masked step: share of the time over share of the multiply-adds",
        reached=max(ratios, default=None),
        most=1.15,
    )


def _value(lines: Lines, key: str, **chosen: str) -> float | None:
    """The value of the first line that is as chosen."""
    for line in lines:
        if all(line.get(name) == value for name, value in chosen.items()) and key in line:
            return line[key]
    return None
