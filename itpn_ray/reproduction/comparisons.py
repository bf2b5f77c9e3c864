"""Tables 3 to 7 and Figure 5 of the paper: this paper's own rows, not those it compares with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from itpn_ray.recipes import named, recipes_of
from itpn_ray.reproduction.ablations import ADE, COCO, IMAGENET
from itpn_ray.reproduction.grid import Cell, Step, Table, claims

COCO_MASK = "COCO mask AP"
DOTA = "DOTA mAP"


def _fine_tuned(row: str, pretrain: str, finetune: str, paper: float, large: str = "") -> Cell:
    """A row of Tables 3 and 4; `large` is the recipe of ImageNet-22K in between."""
    steps: tuple[Step, ...] = (Step(verb="pretrain", recipe=pretrain),)
    changes = {}
    # The head of ImageNet-22K knows the classes of 1K by their names.
    if large:
        steps += (Step(verb="finetune", recipe=large, data="intermediate"),)
        changes = {"task.init_head": True}
    steps += (Step(verb="finetune", recipe=finetune, changes=changes),)
    return Cell(row=row, column=IMAGENET, steps=steps, metric="top1", paper=paper)


TABLE3 = Table(
    title="Top-1 of iTPN by supervision and length of the pre-training",
    source="Table 3",
    held="fine-tuned for 100 epochs (B) or 50 (L)",
    cells=(
        _fine_tuned("B, pixels, 400 epochs", "itpn_base_pixel_400", "itpn_base", 0.851),
        _fine_tuned("B, pixels, 1600 epochs", "itpn_base_pixel_1600", "itpn_base", 0.855),
        _fine_tuned("B, CLIP-B, 300 epochs", "itpn_base_clip_b_300", "itpn_base_clip", 0.859),
        _fine_tuned("B, CLIP-B, 800 epochs", "itpn_base_clip_b_800", "itpn_base_clip", 0.862),
        _fine_tuned("L, pixels, 400 epochs", "itpn_large_pixel_400", "itpn_large", 0.863),
        _fine_tuned("L, pixels, 1600 epochs", "itpn_large_pixel_1600", "itpn_large", 0.867),
        _fine_tuned("L, CLIP-B, 300 epochs", "itpn_large_clip_b_300", "itpn_large_clip", 0.870),
        _fine_tuned("L, CLIP-L, 300 epochs", "itpn_large_clip_l_300", "itpn_large_clip", 0.878),
        _fine_tuned(
            "L, 22K, 384 px",
            "itpn_large_clip_l_300",
            "itpn_large_clip_384",
            0.892,
            large="itpn_large_clip_22k",
        ),
    ),
    claims=claims(
        IMAGENET,
        ("B, pixels, 1600 epochs", "B, pixels, 400 epochs"),
        ("B, CLIP-B, 300 epochs", "B, pixels, 400 epochs"),
        ("B, CLIP-B, 800 epochs", "B, CLIP-B, 300 epochs"),
        ("L, pixels, 400 epochs", "B, pixels, 400 epochs"),
    ),
)


def _sized(letter: str, name: str, tops: Mapping[int, float]) -> tuple[Cell, ...]:
    """The rows of a size of Fast-iTPN: pixels -> top-1."""
    own = named(recipes_of("finetune"), name).model.image_size
    return tuple(
        _fine_tuned(
            f"Fast-iTPN-{letter}, {side} px", name, name if side == own else f"{name}_{side}", top
        )
        for side, top in tops.items()
    )


TABLE4 = Table(
    title="Top-1 of Fast-iTPN by size and resolution",
    source="Table 4",
    held="Fast-iTPN: 1600 epochs on CLIP-L, then 100 (T, S) or 20 (B, L); iTPN: 300, then 100",
    cells=(
        _fine_tuned("iTPN-T, pixels", "itpn_tiny_pixel_300", "itpn_tiny", 0.817),
        _fine_tuned("iTPN-T, CLIP-L", "itpn_tiny_clip_l_300", "itpn_tiny_clip", 0.842),
        _fine_tuned("iTPN-S, pixels", "itpn_small_pixel_300", "itpn_small", 0.840),
        _fine_tuned("iTPN-S, CLIP-L", "itpn_small_clip_l_300", "itpn_small_clip", 0.854),
        _fine_tuned("iTPN-B, CLIP-L", "itpn_base_clip_l_300", "itpn_base_clip", 0.870),
        *_sized("T", "fast_itpn_tiny", {224: 0.851, 384: 0.862, 512: 0.865}),
        *_sized("S", "fast_itpn_small", {224: 0.864, 384: 0.8695, 512: 0.878}),
        *_sized("B", "fast_itpn_base", {224: 0.874, 512: 0.885}),
        _fine_tuned(
            "Fast-iTPN-B, 22K, 512 px",
            "fast_itpn_base",
            "fast_itpn_base_512",
            0.8875,
            large="fast_itpn_base_22k",
        ),
        *_sized("L", "fast_itpn_large", {640: 0.895}),
    ),
    claims=claims(
        IMAGENET,
        ("Fast-iTPN-B, 512 px", "Fast-iTPN-B, 224 px"),
        ("Fast-iTPN-B, 22K, 512 px", "Fast-iTPN-B, 512 px"),
        ("Fast-iTPN-B, 224 px", "iTPN-B, CLIP-L"),
        ("Fast-iTPN-T, 512 px", "Fast-iTPN-T, 224 px"),
        ("Fast-iTPN-B, 224 px", "Fast-iTPN-S, 224 px"),
        ("Fast-iTPN-S, 224 px", "Fast-iTPN-T, 224 px"),
    ),
)


def _dense(
    row: str, pretrain: str, network: str, found: Mapping[str, tuple[float, ...]]
) -> tuple[Cell, ...]:
    """A row of Tables 5 and 6: schedule or head -> box and mask AP, or mIoU."""
    cells = []
    for name, values in found.items():
        verb = "segment" if name in ("upernet", "mask_dino") else "detect"
        metrics = {"miou": ADE} if verb == "segment" else {"box_AP": COCO, "mask_AP": COCO_MASK}
        steps = (
            Step(verb="pretrain", recipe=pretrain),
            Step(verb=verb, recipe=f"{network}_{name}"),
        )
        # As far as the paper has values: its DINO learns no masks.
        cells += [
            Cell(row=f"{row}, {name}", column=column, steps=steps, metric=metric, paper=value)
            for (metric, column), value in zip(metrics.items(), values, strict=False)
        ]
    return tuple(cells)


TABLE5 = Table(
    title="Detection, instance and semantic segmentation of iTPN",
    source="Table 5",
    held="Mask R-CNN for 12 or 36 epochs, Cascade Mask R-CNN for 36, UPerNet for 160,000 steps",
    cells=(
        *_dense(
            "B, pixels",
            "itpn_base_pixel_1600",
            "itpn_base",
            {
                "mask_rcnn_1x": (0.530, 0.465),
                "mask_rcnn_3x": (0.540, 0.474),
                "cascade_3x": (0.560, 0.485),
                "upernet": (0.535,),
            },
        ),
        *_dense(
            "B, CLIP-B",
            "itpn_base_clip_b_800",
            "itpn_base",
            {
                "mask_rcnn_1x": (0.532, 0.466),
                "mask_rcnn_3x": (0.541, 0.475),
                "cascade_3x": (0.561, 0.486),
                "upernet": (0.547,),
            },
        ),
        *_dense(
            "L, pixels",
            "itpn_large_pixel_1600",
            "itpn_large",
            {"mask_rcnn_1x": (0.556, 0.486), "upernet": (0.561,)},
        ),
        *_dense(
            "L, CLIP-L",
            "itpn_large_clip_l_300",
            "itpn_large",
            {"mask_rcnn_1x": (0.552, 0.482), "upernet": (0.577,)},
        ),
    ),
    claims=(
        *claims(
            COCO,
            ("B, pixels, mask_rcnn_3x", "B, pixels, mask_rcnn_1x"),
            ("B, pixels, cascade_3x", "B, pixels, mask_rcnn_3x"),
            ("L, pixels, mask_rcnn_1x", "B, pixels, mask_rcnn_1x"),
        ),
        *claims(ADE, ("B, CLIP-B, upernet", "B, pixels, upernet")),
    ),
)

TABLE6 = Table(
    title="DINO on COCO, UPerNet and MaskDINO on ADE20K",
    source="Table 6",
    held="DINO for 12 epochs",
    cells=(
        *_dense(
            "Fast-iTPN-T",
            "fast_itpn_tiny",
            "fast_itpn_tiny",
            {"dino": (0.541,), "mask_dino": (0.532,)},
        ),
        *_dense(
            "Fast-iTPN-S",
            "fast_itpn_small",
            "fast_itpn_small",
            {"dino": (0.558,), "mask_dino": (0.546,)},
        ),
        *_dense(
            "iTPN-B", "itpn_base_clip_l_300", "itpn_base", {"dino": (0.561,), "upernet": (0.553,)}
        ),
        *_dense(
            "Fast-iTPN-B",
            "fast_itpn_base",
            "fast_itpn_base",
            {"dino": (0.584,), "upernet": (0.558,), "mask_dino": (0.575,)},
        ),
        *_dense(
            "iTPN-L",
            "itpn_large_pixel_1600",
            "itpn_large",
            {"dino": (0.577,), "mask_dino": (0.579,)},
        ),
        *_dense(
            "Fast-iTPN-L",
            "fast_itpn_large",
            "fast_itpn_large",
            {"dino": (0.588,), "mask_dino": (0.587,)},
        ),
    ),
    claims=(
        *claims(COCO, ("Fast-iTPN-B, dino", "iTPN-B, dino")),
        *claims(ADE, ("Fast-iTPN-B, mask_dino", "Fast-iTPN-B, upernet")),
    ),
)

# Without a teacher at hand the smaller scales start from pixels, as Tables 8 and 9 do.
_FAST_B = Step(verb="pretrain", recipe="fast_itpn_base", stand_in="itpn_base_pixel_400")
WINDOW = 16
"""Side of a window at the paper's size; a smaller scale has a smaller one."""
_WINDOWS = {"model.window": WINDOW}
_GATHERED = {**_WINDOWS, "model.gathering": True}
_HRPE, _RPE = {"model.window_position": "windows"}, {"model.window_position": "windows+cross"}


def _accelerated(
    row: str,
    recipe: str,
    column: str,
    metric: str,
    paper: float,
    changes: Mapping[str, Any] | None = None,
) -> Cell:
    data = "rotated" if column == DOTA else ""
    step = Step(verb="detect", recipe=recipe, changes=changes or {}, data=data)
    return Cell(row=row, column=column, steps=(_FAST_B, step), metric=metric, paper=paper)


TABLE7 = Table(
    title="Gathering tokens for rotated objects",
    source="Table 7",
    held="Fast-iTPN-B, rotated Faster R-CNN for 12 epochs",
    cells=tuple(
        _accelerated(row, "fast_itpn_base_rotated_1x", DOTA, "rotated_AP50", paper, changes)
        for row, paper, changes in (
            ("whole map", 0.793, {}),
            ("windows", 0.777, _WINDOWS),
            ("windows, HRPE", 0.779, {**_WINDOWS, **_HRPE}),
            ("windows, gathering", 0.786, _GATHERED),
            ("windows, gathering, RPE", 0.778, {**_GATHERED, **_RPE}),
            ("windows, gathering, HRPE", 0.790, {**_GATHERED, **_HRPE}),
        )
    ),
    claims=claims(
        DOTA,
        ("whole map", "windows"),
        ("windows, gathering", "windows"),
        ("windows, gathering, HRPE", "windows, gathering"),
    ),
    timed=True,
)

FIG5 = Table(
    title="A detector's AP against its speed",
    source="Figure 5 and 5.4.1",
    held="Fast-iTPN-B, Mask R-CNN for 12 epochs",
    cells=tuple(
        _accelerated(row, "fast_itpn_base_mask_rcnn_1x", COCO, "box_AP", paper, changes)
        for row, paper, changes in (
            ("whole map", 0.534, {}),
            ("r = 0.1", 0.534, {"model.migration": 0.1}),
            ("r = 0.2", 0.533, {"model.migration": 0.2}),
            ("r = 0.3", 0.532, {"model.migration": 0.3}),
            ("r = 0.4", 0.530, {"model.migration": 0.4}),
            ("windows", 0.528, _WINDOWS),
            ("windows, gathering", 0.527, _GATHERED),
        )
    ),
    claims=claims(COCO, ("whole map", "r = 0.4"), ("whole map", "windows")),
    timed=True,
)
