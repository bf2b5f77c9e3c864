"""Fine-tuning for classification (paper, 5.2)."""

from __future__ import annotations

import dataclasses

from itpn_ray.data.config import AugmentConfig
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.models.config import find_size
from itpn_ray.recipes import clip
from itpn_ray.recipes.paper import CLUSTER, Recipe, by_name
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.config import ModelConfig


def nano() -> ExperimentConfig:
    """Nano network at 64 px, for a laptop or a test.

    Command: itpn-ray finetune nano --data DATA --model.init out/pretrain/exported/model.safetensors
    """
    return ExperimentConfig(
        run="finetune",
        model=ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.05),
        task=Classification(mixup=0.0, cutmix=0.0, random_erasing=0.0, ema_decay=0.98),
        optim=OptimConfig(
            global_batch=64,
            epochs=12,
            warmup_epochs=1,
            lr=2e-3,
            min_lr=1e-5,
            beta2=0.999,
            layer_decay=0.9,
        ),
        augment=AugmentConfig(min_scale=0.5),
        checkpoint=CheckpointConfig(every_steps=200),
        eval_every=2,
    )


def _finetune(
    run: str,
    model: ModelConfig,
    *,
    epochs: int,
    lr: float,
    layer_decay: float,
    warmup_epochs: int = 5,
    batch: int = 1024,
    clip_norm: float = 0.0,
    ema_decay: float = 0.9999,
) -> ExperimentConfig:
    """Mixing, smoothing and erasing as `Classification` has them, RandAugment of strength 9."""
    return ExperimentConfig(
        run=run,
        model=model,
        task=Classification(ema_decay=ema_decay),
        optim=OptimConfig(
            global_batch=batch,
            micro_batch=32,
            epochs=epochs,
            warmup_epochs=warmup_epochs,
            lr=lr,
            min_lr=1e-6,
            weight_decay=0.05,
            beta2=0.999,
            layer_decay=layer_decay,
            clip_norm=clip_norm,
        ),
        augment=AugmentConfig(policy="rand_augment"),
        **(CLUSTER | {"workers": "32"}),
    )


def fast_itpn_tiny() -> ExperimentConfig:
    """Fast-iTPN-T at 224 pixels, 100 epochs.

    Command: itpn-ray finetune fast_itpn_tiny --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 85.1 % top-1 (86.2 % at 384 pixels, 86.5 % at 512)
    Source: 5.2 and Table 4
    """
    model = ModelConfig(name="fast_itpn_tiny", drop_path=0.1)
    return _finetune("fast_itpn_tiny_ft", model, epochs=100, lr=1e-4, layer_decay=0.80)


def fast_itpn_small() -> ExperimentConfig:
    """Fast-iTPN-S at 224 pixels, 100 epochs.

    Command: itpn-ray finetune fast_itpn_small --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 86.4 % top-1 (86.95 % at 384 pixels, 87.8 % at 512)
    Source: 5.2 and Table 4
    """
    model = ModelConfig(name="fast_itpn_small", drop_path=0.1)
    return _finetune("fast_itpn_small_ft", model, epochs=100, lr=1e-4, layer_decay=0.90)


def fast_itpn_base() -> ExperimentConfig:
    """Fast-iTPN-B at 224 pixels, 20 epochs.

    Command: itpn-ray finetune fast_itpn_base --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 87.4 % top-1 (88.5 % at 512 pixels)
    Source: 5.2 and Table 4
    """
    model = ModelConfig(name="fast_itpn_base", drop_path=0.1)
    return _finetune(
        "fast_itpn_base_ft", model, epochs=20, warmup_epochs=3, lr=1e-4, layer_decay=0.90
    )


def fast_itpn_large() -> ExperimentConfig:
    """Fast-iTPN-L at 640 pixels, 20 epochs; the batch of 512 is that of the authors' script.

    Command: itpn-ray finetune fast_itpn_large --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 89.5 % top-1
    Source: 5.2 and Table 4
    """
    model = ModelConfig(
        name="fast_itpn_large", image_size=640, drop_path=0.2, checkpoint_activations=True
    )
    return _finetune(
        "fast_itpn_large_ft",
        model,
        epochs=20,
        warmup_epochs=3,
        batch=512,
        lr=5e-5,
        layer_decay=0.95,
    )


LARGER = {
    "fast_itpn_tiny": {384: "86.2", 512: "86.5"},
    "fast_itpn_small": {384: "86.95", 512: "87.8"},
    "fast_itpn_base": {512: "88.5"},
}
"""Recipe at 224 px -> larger images and the top-1 of Table 4, per cent."""


def _larger(at_224: Recipe, side: int, top1: str) -> Recipe:
    """A recipe on larger images: nothing else differs, as in the authors' command."""
    name = f"{at_224.__name__}_{side}"

    def recipe() -> ExperimentConfig:
        base = at_224()
        model = dataclasses.replace(base.model, image_size=side, checkpoint_activations=side > 384)
        return dataclasses.replace(base, run=f"{name}_ft", model=model)

    recipe.__name__ = name
    recipe.__doc__ = f"""{(at_224.__doc__ or "").split(" at ")[0]} at {side} pixels.

    Command: itpn-ray finetune {name} --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: {top1} % top-1
    Source: 5.2 and Table 4
    """
    return recipe


INTERMEDIATE_EPOCHS = 90
"""Of fine-tuning on ImageNet-22K: the paper says nothing; BEiT v2 has 90."""


def fast_itpn_base_22k() -> ExperimentConfig:
    """Fast-iTPN-B on ImageNet-22K at 224 pixels, before ImageNet-1K (the authors' size).

    Command: itpn-ray finetune fast_itpn_base_22k --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 88.75 % top-1 after `itpn-ray finetune fast_itpn_base_512` with --task.init-head
    Source: 5.2 and Table 4; epochs and warm-up are ours
    """
    return _intermediate(fast_itpn_base(), "fast_itpn_base_22k")


def itpn_large_clip_22k() -> ExperimentConfig:
    """iTPN-L on ImageNet-22K at 224 pixels, before ImageNet-1K.

    Command: itpn-ray finetune itpn_large_clip_22k --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 89.2 % top-1 after `itpn-ray finetune itpn_large_clip_384` with --task.init-head
    Source: 5.2 and Table 3; epochs are ours
    """
    return _intermediate(itpn_large_clip(), "itpn_large_clip_22k")


def _intermediate(at_1k: ExperimentConfig, run: str) -> ExperimentConfig:
    optim = dataclasses.replace(at_1k.optim, epochs=INTERMEDIATE_EPOCHS, warmup_epochs=5)
    return dataclasses.replace(at_1k, run=run, optim=optim, eval_every=10)


def itpn_large_clip_384() -> ExperimentConfig:
    """iTPN-L at 384 pixels, 50 epochs, from weights that were fine-tuned on ImageNet-22K.

    Command: itpn-ray finetune itpn_large_clip_384 --data DATA --model.init WEIGHTS --task.init-head
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 89.2 % top-1
    Source: 5.2 and Table 3
    """
    base = itpn_large_clip()
    model = dataclasses.replace(base.model, image_size=384, checkpoint_activations=True)
    return dataclasses.replace(base, run="itpn_large_clip_384_ft", model=model)


BASE_RATE = 1024 / 256
"""The rates of 5.2 for iTPN are for 256 images, as in MAE and the authors' launcher on pixels."""


def _itpn(
    run: str,
    model: ModelConfig,
    *,
    epochs: int,
    lr: float,
    layer_decay: float,
    warmup_epochs: int = 5,
    clip_norm: float = 0.0,
) -> ExperimentConfig:
    """Fine-tune iTPN as its code does: no average, layer decay to the power of 13 / (blocks + 1).

    Over all blocks the rate then falls as in a ViT of 12, which the values of 5.2 are meant for.
    """
    layers = sum(find_size(model.name).trunk.depths) + 1
    return _finetune(
        run,
        model,
        epochs=epochs,
        lr=lr,
        layer_decay=layer_decay ** (13 / layers),
        warmup_epochs=warmup_epochs,
        clip_norm=clip_norm,
        ema_decay=0.0,
    )


def itpn_tiny() -> ExperimentConfig:
    """iTPN-T that was pre-trained on pixels, 100 epochs; the paper says nothing: as iTPN-B.

    Command: itpn-ray finetune itpn_tiny --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 81.7 % top-1 after 300 epochs of pre-training
    Source: 5.2 and Table 4
    """
    return _pixels("itpn_tiny")


def itpn_small() -> ExperimentConfig:
    """iTPN-S that was pre-trained on pixels, 100 epochs; the paper says nothing: as iTPN-B.

    Command: itpn-ray finetune itpn_small --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 84.0 % top-1 after 300 epochs of pre-training
    Source: 5.2 and Table 4
    """
    return _pixels("itpn_small")


def itpn_tiny_clip() -> ExperimentConfig:
    """iTPN-T that was pre-trained on CLIP, 100 epochs; the paper says nothing: as iTPN-B.

    Command: itpn-ray finetune itpn_tiny_clip --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 84.2 % top-1 after 300 epochs on CLIP-L
    Source: 5.2 and Table 4
    """
    return _on_clip("itpn_tiny")


def itpn_small_clip() -> ExperimentConfig:
    """iTPN-S that was pre-trained on CLIP, 100 epochs; the paper says nothing: as iTPN-B.

    Command: itpn-ray finetune itpn_small_clip --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 85.4 % top-1 after 300 epochs on CLIP-L
    Source: 5.2 and Table 4
    """
    return _on_clip("itpn_small")


def _pixels(name: str) -> ExperimentConfig:
    """The recipe of a base-level network that was pre-trained on pixels."""
    # Positions relative to each other are learned from here on, as in the authors' code.
    model = ModelConfig(name=name, drop_path=0.15, relative_position=True)
    return _itpn(
        f"{name}_ft", model, epochs=100, lr=5e-4 * BASE_RATE, layer_decay=0.65, clip_norm=5.0
    )


def _on_clip(name: str) -> ExperimentConfig:
    """The recipe of a base-level network that was pre-trained on CLIP."""
    return _itpn(
        f"{name}_clip_ft",
        dataclasses.replace(clip.ITPN_BASE, name=name),
        epochs=100,
        warmup_epochs=20,
        lr=5e-4,
        layer_decay=0.60,
    )


def itpn_base() -> ExperimentConfig:
    """iTPN-B that was pre-trained on pixels, 100 epochs.

    Command: itpn-ray finetune itpn_base --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 85.1 % top-1 after 400 epochs of pre-training, 85.5 % after 1600
    Source: 5.2 and Table 3
    """
    return _pixels("itpn_base")


def itpn_large() -> ExperimentConfig:
    """iTPN-L that was pre-trained on pixels, 50 epochs.

    Command: itpn-ray finetune itpn_large --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 86.3 % top-1 after 400 epochs of pre-training, 86.7 % after 1600
    Source: 5.2 and Table 3
    """
    model = ModelConfig(name="itpn_large", drop_path=0.2, relative_position=True)
    return _itpn(
        "itpn_large_ft", model, epochs=50, lr=1e-3 * BASE_RATE, layer_decay=0.70, clip_norm=5.0
    )


def itpn_base_clip() -> ExperimentConfig:
    """iTPN-B that was pre-trained on CLIP, 100 epochs; rates of the authors' command.

    Command: itpn-ray finetune itpn_base_clip --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 85.9 % top-1 after 300 epochs on CLIP-B, 86.2 % after 800, 87.0 % on CLIP-L
    Source: 5.2, Tables 3 and 4
    """
    return _on_clip("itpn_base")


def itpn_large_clip() -> ExperimentConfig:
    """iTPN-L that was pre-trained on CLIP, 50 epochs; rates of the authors' command.

    Command: itpn-ray finetune itpn_large_clip --data DATA --model.init WEIGHTS
    Hardware: not in the paper; ask `itpn-ray plan`
    Expected: 87.0 % top-1 after 300 epochs on CLIP-B, 87.8 % on CLIP-L, 88.0 % at 256 pixels
    Source: 5.2 and Table 3
    """
    model = dataclasses.replace(clip.ITPN_LARGE, drop_path=0.25)
    return _itpn("itpn_large_clip_ft", model, epochs=50, lr=2e-4, layer_decay=0.55)


RECIPES: dict[str, Recipe] = by_name(
    nano,
    fast_itpn_tiny,
    fast_itpn_small,
    fast_itpn_base,
    fast_itpn_large,
    *(
        _larger(recipe, side, top1)
        for recipe in (fast_itpn_tiny, fast_itpn_small, fast_itpn_base)
        for side, top1 in LARGER[recipe.__name__].items()
    ),
    fast_itpn_base_22k,
    itpn_tiny,
    itpn_small,
    itpn_tiny_clip,
    itpn_small_clip,
    itpn_base,
    itpn_large,
    itpn_base_clip,
    itpn_large_clip,
    itpn_large_clip_384,
    itpn_large_clip_22k,
)
"""Name on the command line -> recipe."""
