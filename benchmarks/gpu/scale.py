"""How large everything is: `FULL` on a card, `TOY` to show on any machine that the suite runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Rivals = dict[str, dict[str, Any]]
"""timm's name of a network -> arguments that make it smaller."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of one run of the suite.

    Attributes:
        name: written into the results; other sizes do not resume them.
        networks: trunks in the order of their importance.
        main: the trunk that the bars are about, and the detectors' too.
        sizes: sides of images in the trunk part, pixels; the first is that of the bars.
        rivals: timm's networks beside ours, at the first of the sizes; the first is the bars'.
        pixels: of a batch of one network; fewer where a single image has more.
        large: side of the large square images of the acceleration part.
        view: height and width of a detector's view as batches pad it.
        window: side of an attention window there, tokens.
        pretrained: trunks that are pre-trained, with the shape of the MAE of their size.
        decoder: fields of `PixelPretraining` that are not as usual.
        batch: images of a pre-training step.
        teacher: CLIP teacher, a name in `TEACHERS`.
        views: images of a detector's training step.
        small_head: whether detectors and segmenters get a small head.
        crops: images of a segmenter's batch, and their side in pixels.
        images: drawn JPEG files of the input part, and their mean side in pixels.
        repeats: rounds of each timing.
        least: seconds that one timing takes at least.
        backend: of torch.compile.
    """

    name: str
    networks: tuple[str, ...]
    main: str
    sizes: tuple[int, ...]
    rivals: Rivals
    pixels: int
    large: int
    view: tuple[int, int]
    window: int
    pretrained: dict[str, dict[str, int]]
    decoder: dict[str, int]
    batch: int
    teacher: str
    views: int
    small_head: bool
    crops: tuple[int, int]
    images: tuple[int, int]
    repeats: int
    least: float
    backend: str


FULL = Scale(
    name="full",
    networks=(
        "fast_itpn_base",
        "fast_itpn_large",
        "fast_itpn_tiny",
        "fast_itpn_small",
        "itpn_base",
    ),
    main="fast_itpn_base",
    sizes=(224, 384, 512, 1024),
    rivals={"vit_base_patch16_224": {}, "hiera_base_224": {}, "swin_base_patch4_window7_224": {}},
    pixels=256 * 224**2,
    large=1024,
    view=(800, 1344),
    window=16,
    pretrained={
        "fast_itpn_base": {},
        "fast_itpn_large": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    },
    decoder={},
    batch=256,
    teacher="vit_base_patch16_clip_quickgelu_224",
    views=4,
    small_head=False,
    crops=(16, 512),
    images=(4096, 430),
    repeats=5,
    least=0.15,
    backend="inductor",
)
TOY = Scale(
    name="toy",
    networks=("fast_itpn_nano",),
    main="fast_itpn_nano",
    sizes=(64, 96),
    rivals={
        "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
        "hiera_tiny_224": {"img_size": 64, "embed_dim": 32, "stages": (1, 1, 1, 1)},
        "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "depths": (1, 1)},
    },
    pixels=2 * 64**2,
    large=96,
    view=(64, 96),
    window=2,
    pretrained={
        "fast_itpn_nano": {
            "image_size": 64,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "decoder_hidden_size": 64,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 128,
        }
    },
    decoder={"pyramid_width": 16, "decoder_width": 32, "decoder_depth": 1},
    batch=2,
    teacher="clip_nano",
    views=2,
    small_head=True,
    crops=(2, 64),
    images=(24, 80),
    repeats=1,
    least=0.0,
    backend="eager",
)
SCALES = {scale.name: scale for scale in (FULL, TOY)}
