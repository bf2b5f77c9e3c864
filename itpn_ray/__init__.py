"""Pre-train, fine-tune and tune Fast-iTPN on your own images with Ray."""

from itpn_ray.api import (
    Run,
    detect,
    evaluate,
    export,
    features,
    finetune,
    predict,
    prepare,
    pretrain,
    segment,
    tune,
)

__all__ = [
    "Run",
    "detect",
    "evaluate",
    "export",
    "features",
    "finetune",
    "predict",
    "prepare",
    "pretrain",
    "segment",
    "tune",
]
