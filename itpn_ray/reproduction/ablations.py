"""Tables 8 and 9 and Figures 6 and 7 of the paper: what integral pre-training is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from itpn_ray.reproduction.grid import Cell, Step, Table, claims

IMAGENET, COCO, ADE = "ImageNet-1K top-1", "COCO box AP", "ADE20K mIoU"
LOSS = "loss of masked pixels"
ITPN = Step(verb="pretrain", recipe="itpn_base_pixel_400")
NO_IPT = {"task.integral": False, "task.feature_weight": 0.0}
NEW_PYRAMID = {"task.init_pyramid": False}
CONVOLUTION = {"model.convolution": True}
NO_MFM = {"task.feature_weight": 0.0}  # λ = 0 in eq. 4
PLAIN = {"model.name": "plain_base"}
HELD = (
    "iTPN-B, 400 epochs on pixels; fine-tuned for 100 epochs, Mask R-CNN for 12, UPerNet for "
    "160,000 steps"
)


def _pretrained(changes: Mapping[str, Any]) -> Step:
    return Step(verb="pretrain", recipe="itpn_base_pixel_400", changes=changes)


def _classified(changes: Mapping[str, Any] | None = None) -> Step:
    return Step(verb="finetune", recipe="itpn_base", changes=changes or {})


def _detected(changes: Mapping[str, Any] | None = None) -> Step:
    return Step(verb="detect", recipe="itpn_base_mask_rcnn_1x", changes=changes or {})


def _segmented(changes: Mapping[str, Any] | None = None) -> Step:
    return Step(verb="segment", recipe="itpn_base_upernet", changes=changes or {})


def _three(
    row: str,
    pretrained: Step,
    paper: tuple[float | None, float, float],
    changes: Mapping[str, Any],
    dense: Mapping[str, Any],
) -> tuple[Cell, ...]:
    """The cells of a row: fine-tuned, detector, segmenter; the first where the paper has one."""
    last = (
        (IMAGENET, "top1", _classified(changes)),
        (COCO, "box_AP", _detected({**changes, **dense})),
        (ADE, "miou", _segmented({**changes, **dense})),
    )
    return tuple(
        Cell(row=row, column=column, steps=(pretrained, step), metric=metric, paper=value)
        for (column, metric, step), value in zip(last, paper, strict=True)
        if value is not None
    )


_WITHOUT, _NOT_LOADED, _LOADED = "no iPT", "iPT, pyramid not loaded", "iPT, pyramid loaded"

TABLE8 = Table(
    title="Integral pre-training (iPT), and loading its pyramid",
    source="Table 8",
    held=HELD,
    cells=(
        *_three(_WITHOUT, _pretrained(NO_IPT), (0.844, 0.506, 0.515), {}, NEW_PYRAMID),
        *_three(_NOT_LOADED, ITPN, (None, 0.515, 0.518), {}, NEW_PYRAMID),
        # A classifier has no pyramid to load: the paper's cell stands beside both rows.
        *_three(_LOADED, ITPN, (0.851, 0.521, 0.522), {}, {}),
    ),
    claims=(
        *claims(IMAGENET, (_LOADED, _WITHOUT)),
        *claims(COCO, (_NOT_LOADED, _WITHOUT), (_LOADED, _NOT_LOADED)),
        *claims(ADE, (_NOT_LOADED, _WITHOUT), (_LOADED, _NOT_LOADED)),
    ),
)

_CONV, _CONV_MFM, _MLP, _MLP_MFM = (
    "convolution, no MFM",
    "convolution, MFM",
    "C-MLP, no MFM",
    "C-MLP, MFM",
)

TABLE9 = Table(
    title="Channel MLPs (C-MLP) or convolutions, and masked feature modelling (MFM)",
    source="Table 9",
    held=HELD,
    cells=(
        *_three(
            _CONV,
            _pretrained({**CONVOLUTION, **NO_MFM}),
            (0.843, 0.498, 0.500),
            CONVOLUTION,
            {},
        ),
        *_three(_CONV_MFM, _pretrained(CONVOLUTION), (0.846, 0.508, 0.507), CONVOLUTION, {}),
        *_three(_MLP, _pretrained(NO_MFM), (0.849, 0.518, 0.518), {}, {}),
        *_three(_MLP_MFM, ITPN, (0.851, 0.521, 0.522), {}, {}),
    ),
    claims=tuple(
        claim
        for column in (IMAGENET, COCO, ADE)
        for claim in claims(column, (_CONV_MFM, _CONV), (_MLP_MFM, _MLP), (_MLP, _CONV))
    ),
)

_FRAMEWORKS: dict[str, tuple[Step, Mapping[str, Any]]] = {
    "iTPN": (ITPN, {}),
    "no iPT": (_pretrained(NO_IPT), NEW_PYRAMID),
    "plain trunk (MAE)": (_pretrained({**NO_IPT, **PLAIN}), {**PLAIN, **NEW_PYRAMID}),
}

FIG6 = Table(
    title="What a token attends to, in the encoder and in the decoder",
    source="Figure 6",
    held="400 epochs on pixels",
    cells=tuple(
        Cell(row=row, column=LOSS, steps=(pretrained,), metric="mim")
        for row, (pretrained, _) in _FRAMEWORKS.items()
    ),
    attention=True,
)

FIG7 = Table(
    title="Reconstruction, and how fast a detector learns",
    source="Figure 7",
    held="400 epochs on pixels; Mask R-CNN for 12",
    cells=(
        *FIG6.cells,
        *(
            Cell(row=row, column=COCO, steps=(pretrained, _detected(dense)), metric="box_AP")
            for row, (pretrained, dense) in _FRAMEWORKS.items()
        ),
    ),
    claims=tuple(
        claim
        for column in (LOSS, COCO)
        for claim in claims(column, ("iTPN", "no iPT"), ("iTPN", "plain trunk (MAE)"))
    ),
    curves=True,
)
