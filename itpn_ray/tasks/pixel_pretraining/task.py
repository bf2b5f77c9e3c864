"""Pixel pre-training: masked image modelling plus masked feature modelling (paper, 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.evaluation.reconstruction import reconstruction_grid
from itpn_ray.models import (
    PixelAutoencoder,
    create_autoencoder,
    layer_ids,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.config import PATCH
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.rng import Stream, uniform_torch
from itpn_ray.tasks.base import STAGES_USAGE, Task, TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.crop_loaders import crop_eval_loader, crop_train_loader
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.pixel_pretraining.feature_loss import FeatureModelling
from itpn_ray.tasks.pixel_pretraining.masking import random_mask, visible_count
from itpn_ray.tasks.pretraining_evaluation import PretrainingNetwork, evaluate_pretraining

SHOWN = 8
"""Images in a reconstruction grid."""


class MaskedPretrainingNetwork(PretrainingNetwork):
    """The masked autoencoder and, where λ > 0, the feature modelling beside it."""

    def __init__(self, autoencoder: PixelAutoencoder, config: PixelPretraining) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.feature_weight = config.feature_weight
        self.features = (
            FeatureModelling(
                autoencoder.trunk,
                autoencoder.trunk.widths,
                config.pyramid_width,
                config.teacher_momentum,
            )
            if config.feature_weight > 0
            else None
        )
        stages = () if self.features is None else self.features.terms
        self.terms = ("loss", "mim", *stages)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of eq. 4: ``loss`` = ``mim`` + λ · Σ ``mfm_stage*``; scalars."""
        output = self.autoencoder(
            batch["image"],
            batch["mask"],
            visible=batch["visible"],
            drop_noise=batch["drop_noise"],
        )
        terms = {"mim": output["loss"]}
        total = output["loss"]
        if self.features is not None:
            stages = self.features(batch["image"], batch["visible"], output["pyramid"])
            # λ of eq. 4, the same for every stage.
            total = total + self.feature_weight * torch.stack(list(stages.values())).sum()
            terms.update(stages)
        return {"loss": total, **terms}


class PixelPretrainingTask(Task[PixelPretraining, MaskedPretrainingNetwork, nn.Module]):
    """Pre-train trunk and pyramid on pixels."""

    usage = STAGES_USAGE

    def __init__(self, setup: TaskSetup[PixelPretraining]) -> None:
        super().__init__(setup)
        self._last: Batch | None = None
        self._num_drops = 0

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse masks that leave nothing to hide or to see.

        Raises:
            ConfigError: the ratio does so at an image size of the run.
        """
        # The smallest and the largest side bound what those in between leave hidden and visible.
        for side in {self.config.side(0, self.model.image_size), self.model.image_size}:
            visible_count((side // PATCH) ** 2, self.config.mask_ratio)

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """Random crops, which grow where they start smaller."""
        full = self.model.image_size
        return crop_train_loader(
            self.setup, train, share, side=lambda epoch: self.config.side(epoch, full)
        )

    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        """Central crops."""
        return crop_eval_loader(self.setup, val, share)

    def build(self) -> MaskedPretrainingNetwork:
        """The masked autoencoder with its teacher, weights drawn from the seed or loaded."""
        # The same first weights on every worker, without sending them around.
        torch.manual_seed(self.seed)
        autoencoder = create_autoencoder(
            self.model.name,
            image_size=self.model.image_size,
            pyramid_width=self.config.pyramid_width,
            decoder_width=self.config.decoder_width,
            decoder_depth=self.config.decoder_depth,
            integral=self.config.integral,
            **self.model.trunk_changes(),
        )
        if self.model.init:
            self.load_report = load_weights(
                autoencoder,
                self.model.init,
                key=self.model.init_key,
                partial=self.model.partial_init,
            )
        autoencoder.set_grad_checkpointing(self.model.checkpoint_activations)
        self._num_drops = autoencoder.num_drops
        return MaskedPretrainingNetwork(autoencoder, self.config)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Normalise the images and draw their masks."""
        height, width = batch["image"].shape[2:]
        visible, mask = random_mask(
            batch["sample_id"],
            seed=self.seed,
            epoch=epoch,
            tokens=height // PATCH * (width // PATCH),
            ratio=self.config.mask_ratio,
        )
        noise = uniform_torch(
            self.seed, epoch, batch["sample_id"], Stream.DROP_PATH, self._num_drops
        )
        return {
            **batch,
            "image": normalise(batch["image"]),
            "visible": visible,
            "mask": mask,
            "drop_noise": noise,
        }

    def layer_ids(self, network: MaskedPretrainingNetwork) -> dict[str, int]:
        """Depths of the autoencoder's parameters; heads of the feature loss lie at the top."""
        autoencoder = network.autoencoder
        ids = {f"autoencoder.{name}": depth for name, depth in layer_ids(autoencoder).items()}
        # Heads of the feature loss are new, and learn at the full rate.
        top = max(ids.values())
        # The teacher's parameters are among them, but need no gradient.
        return {name: ids.get(name, top) for name, _ in network.named_parameters()}

    def no_weight_decay(self, network: MaskedPretrainingNetwork) -> set[str]:
        """Vectors, position tables and the mask token."""
        autoencoder = network.autoencoder
        # The mask token has three axes, so that the rule for vectors does not catch it.
        names = no_weight_decay(autoencoder) | {"mask_token"}
        # Biases of these heads, which `no_weight_decay` of the autoencoder does not see.
        heads = {name for name, p in network.named_parameters() if p.ndim <= 1}
        return {f"autoencoder.{name}" for name in names} | heads

    def after_step(self, network: MaskedPretrainingNetwork, step: int) -> None:
        """Move the teacher."""
        if network.features is not None:
            network.features.follow(network.autoencoder.trunk, step)

    def evaluate(
        self, network: MaskedPretrainingNetwork, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """Loss on held-out images at fixed masks, and a nearest-neighbour probe of the trunk."""
        trunk = network.autoencoder.trunk
        return evaluate_pretraining(network, trunk, self._prepared(batches), reduce)

    def _prepared(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Prepare batches for evaluation, and keep the first images for `draw`."""
        for raw in batches:
            # Always epoch 0: held-out losses of different epochs must be of the same masks.
            batch = self.prepare(raw, epoch=0)
            # Those with row 0 where they come by, so that each evaluation draws the same images.
            if self._last is None or int(batch["sample_id"].min()) == 0:
                self._last = {name: tensor[:SHOWN] for name, tensor in batch.items()}
            yield batch

    @torch.no_grad()
    def draw(self, network: MaskedPretrainingNetwork, folder: Path) -> list[Path]:
        """A grid of input, masked input and reconstruction."""
        if self._last is None:
            return []
        autoencoder = network.autoencoder
        batch = self._last
        output = autoencoder(batch["image"], batch["mask"], visible=batch["visible"])
        path = folder / "reconstruction.png"
        reconstruction_grid(batch["image"], batch["mask"], output["pred"], path)
        return [path]

    def multiply_adds(self, network: MaskedPretrainingNetwork) -> dict[str, int]:
        """Of the autoencoder, and of the teacher where there is one; both see visible patches.

        Of images of full size, also where they start smaller.
        """
        autoencoder = network.autoencoder
        size = self.model.image_size
        # Never refused here: `plan` counts before `check` has looked at the ratio.
        visible = max(1, int((size // PATCH) ** 2 * (1 - self.config.mask_ratio)))
        adds = {"student": multiply_adds(autoencoder, size, visible=visible)}
        if self.config.feature_weight > 0:
            adds["teacher"] = multiply_adds(autoencoder.trunk, size, visible=visible)
        return adds

    def work_share(self, batch: Batch) -> float:
        """See `Task.work_share`: as the pixels, where images start smaller."""
        return (batch["image"].shape[-1] / self.model.image_size) ** 2

    def export(self, network: MaskedPretrainingNetwork, path: Path) -> None:
        """Write trunk, pyramid and decoder; the teacher and its heads stay in the checkpoint."""
        save_model(
            network.autoencoder,
            path,
            {"task": self.config.name, "crop_fraction": str(self.model.evaluation_crop)},
        )
