"""What is measured: one declaration a metric, which reports, tables, sweeps and trackers read.

The metrics of this package stand here, a table for each evaluator. A task of another package lists
its own in its settings (`itpn_ray.tasks.config.TaskConfig.metrics`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError

UNITS = ("", "%", "count", "images/s", "setting")
"""How values are written: as numbers; fractions in [0, 1] as per cent; whole; three digits where
small; as they were set."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Raises:
        ConfigError: the unit is unknown.
    """

    name: str
    """As records and results have it."""
    label: str = ""
    """For people; empty: the name with blanks."""
    unit: str = ""
    """One of `UNITS`."""
    higher_is_better: bool = True
    """Which of two values is the better one."""
    headline: bool = False
    """Whether a task is judged by it; the first such metric of a task is what a sweep improves."""
    counted: bool = False
    """Whether it is a fraction of images that are right, so that its interval is known."""
    detail: bool = False
    """Whether only full lists show it."""
    chart: str = ""
    """Title of the chart of curves it belongs to; empty: one for each kind of evaluation."""

    def __post_init__(self) -> None:
        checks.one_of(f"unit of {self.name}", self.unit, UNITS)
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))


LOSS = Metric(name="loss", higher_is_better=False)
TRAINING = (
    LOSS,
    Metric(name="lr", label="learning rate", unit="setting"),
    Metric(name="grad_norm", label="gradient norm"),
    Metric(name="images_per_s", label="images/s", unit="images/s"),
    Metric(name="mfu", label="MFU", unit="%"),
    Metric(name="gpu_memory_gb", label="GPU memory, GB", higher_is_better=False),
)
SETTINGS = (
    Metric(name="migration", label="r", unit="setting"),
    Metric(name="feature_weight", label="λ", unit="setting"),
    Metric(name="layer_decay", unit="setting"),
    Metric(name="epoch", unit="setting"),
    Metric(name="epochs", unit="setting"),
    Metric(name="step", unit="count"),
    Metric(name="steps", unit="count"),
    Metric(name="images", unit="count"),
    Metric(name="count", unit="count"),
    Metric(name="parameters", unit="count"),
)
PRETRAINING = (
    Metric(name="mim", label="masked pixels", higher_is_better=False),
    *(
        Metric(name=f"mfm_stage{n}", label=f"features, stage {n}", higher_is_better=False)
        for n in (1, 2, 3)
    ),
)
NEIGHBOURS = (
    Metric(name="knn_top1", label="kNN top-1", unit="%", counted=True),
    Metric(name="rankme", label="RankMe", chart="effective rank of the features"),
)
FEATURES = (Metric(name="probe_top1", label="linear probe top-1", unit="%", counted=True),)
_RECALL = Metric(name="recall", unit="%")
_PRECISION = Metric(name="precision", unit="%")
_TRAIN_IMAGES = Metric(name="train_images", label="training images", unit="count")
_NON_FINITE = Metric(name="non_finite", unit="count", higher_is_better=False)
TOP_K = (
    Metric(name="top1", label="top-1", unit="%", headline=True, counted=True),
    Metric(name="top5", label="top-5", unit="%", counted=True),
    Metric(name="mean_recall", unit="%"),
    _RECALL,
    _PRECISION,
    _TRAIN_IMAGES,
    _NON_FINITE,
)
LABELS = (
    Metric(name="map", label="mAP", unit="%", headline=True),
    Metric(name="f1", label="F1 at 0.5", unit="%"),
    Metric(name="ap", label="AP", unit="%"),
    _RECALL,
    _PRECISION,
    _TRAIN_IMAGES,
    _NON_FINITE,
)


def _average_precision(kind: str, things: str) -> tuple[Metric, ...]:
    """COCO's twelve of one kind; recalls, and precisions by size, are details."""
    sizes = ("small", "medium", "large")
    chart = f"average precision of {things} on held-out images"
    precisions = [
        Metric(
            name=f"{kind}_{name}",
            unit="%",
            chart=chart,
            headline=name == "AP",
            detail="_" in name,
        )
        for name in ("AP", "AP50", "AP75", *(f"AP_{size}" for size in sizes))
    ]
    recalls = [
        Metric(name=f"{kind}_{name}", unit="%", detail=True)
        for name in ("AR1", "AR10", "AR100", *(f"AR_{size}" for size in sizes))
    ]
    return (*precisions, *recalls)


AVERAGE_PRECISION = (*_average_precision("box", "boxes"), *_average_precision("mask", "masks"))
_ROTATED_CHART = "average precision of turned boxes on held-out images"
ROTATED = (
    Metric(name="rotated_AP50", label="AP50", unit="%", chart=_ROTATED_CHART, headline=True),
    Metric(name="rotated_AP75", label="AP75", unit="%", chart=_ROTATED_CHART),
    Metric(name="rotated_AP", label="AP", unit="%", chart=_ROTATED_CHART),
)
SEGMENTATION = (
    Metric(name="miou", label="mIoU", unit="%", headline=True),
    Metric(name="macc", label="mean accuracy", unit="%"),
    Metric(name="aacc", label="pixel accuracy", unit="%"),
    Metric(name="miou_all", label="mIoU, absent classes as 0", unit="%", detail=True),
    Metric(name="boundary_iou", label="mIoU of boundaries", unit="%", detail=True),
    Metric(name="iou", label="IoU", unit="%"),
    Metric(name="acc", label="accuracy", unit="%"),
)

_KNOWN = {
    metric.name: metric
    for table in (
        TRAINING,
        SETTINGS,
        PRETRAINING,
        NEIGHBOURS,
        FEATURES,
        TOP_K,
        LABELS,
        AVERAGE_PRECISION,
        ROTATED,
        SEGMENTATION,
    )
    for metric in table
}
_REMEMBERED: dict[str, Metric] = {}
"""Of tasks that this process has not loaded: from the folder that was read last."""


def declare(*metrics: Metric) -> None:
    """Make the metrics of a task known to this process.

    Raises:
        ConfigError: a name stands for another metric already.
    """
    for metric in metrics:
        known = _KNOWN.setdefault(metric.name, metric)
        if known != metric:
            raise ConfigError(
                "metric", metric.name, f"is declared already, as {known}", "Choose another name"
            )


def remember(declared: Iterable[Mapping[str, Any]]) -> None:
    """Know metrics as a run's folder declares them, where this process has no declaration itself.

    Args:
        declared: the fields of each, as `dataclasses.asdict` gives them; what this version of
            `Metric` does not have is left out.
    """
    fields = {field.name for field in dataclasses.fields(Metric)}
    for plain in declared:
        known = {name: value for name, value in plain.items() if name in fields}
        _REMEMBERED[known["name"]] = Metric(**known)


def find(name: str) -> Metric:
    """The declaration of a metric; one that nobody declared is a plain number.

    Trackers have the split before the name, as in ``val/top1``; ``top1_r0.2`` is ``top1`` at an r.
    """
    name = name.rpartition("/")[2]
    plain, _, ratio = name.rpartition("_r")
    declared = _KNOWN.get(plain) or _REMEMBERED.get(plain)
    if name not in _KNOWN and declared and ratio[:1].isdigit():
        label = f"{declared.label} at r = {ratio}"
        return dataclasses.replace(declared, name=name, label=label, headline=False)
    return _KNOWN.get(name) or _REMEMBERED.get(name) or Metric(name=name)


def headline(names: Iterable[str]) -> str:
    """The first metric of a row, or of some names, that a task is judged by; empty: none."""
    return next((name for name in names if find(name).headline), "")
