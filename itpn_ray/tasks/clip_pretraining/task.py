"""CLIP pre-training: a masked image's pyramid learns a CLIP teacher's tokens (paper, 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.store.teacher_features import Features, read_features
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.models import (
    ClipDistiller,
    create_distiller,
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
from itpn_ray.tasks.clip_pretraining.block_mask import block_mask, masked_count
from itpn_ray.tasks.clip_pretraining.config import TEACHERS, ClipPretraining
from itpn_ray.tasks.clip_pretraining.features import open_features
from itpn_ray.tasks.clip_pretraining.teacher import (
    ClipTeacher,
    load_teacher,
    teacher_digest,
    teacher_multiply_adds,
)
from itpn_ray.tasks.crop_loaders import crop_eval_loader, crop_train_loader
from itpn_ray.tasks.pretraining_evaluation import PretrainingNetwork, evaluate_pretraining


def cosine_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine of the angle between tokens, averaged over all (B, L, T) -> scalar."""
    return (1 - F.cosine_similarity(predicted, target, dim=-1)).mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "cosine": cosine_loss,
}
"""Name of a loss (paper, 5.1) -> scalar of predicted and target tokens."""


class DistillationNetwork(PretrainingNetwork):
    """The student with its loss; the teacher's tokens come with the batch."""

    terms = ("loss", "mfm", "aux")

    def __init__(self, distiller: ClipDistiller, loss: str) -> None:
        super().__init__()
        self.distiller = distiller
        self.distance = DISTANCES[loss]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` = ``mfm`` + ``aux``: distances to ``teacher`` (B, L, T); scalars."""
        output = self.distiller(batch["image"], batch["mask"], drop_noise=batch["drop_noise"])
        target = batch["teacher"].float()
        mfm = self.distance(output["main"].float(), target)
        aux = self.distance(output["aux"].float(), target)
        # No λ of eq. 4 here: it weighs features against pixels, and there is no pixel term.
        return {"loss": mfm + aux, "mfm": mfm, "aux": aux}


class ClipPretrainingTask(Task[ClipPretraining, DistillationNetwork, nn.Module]):
    """Pre-train trunk and pyramid on a CLIP teacher's tokens.

    The teacher is loaded with the first batch that brings no features of its own. It is no part of
    the network: checkpoints name its file and do not repeat it.
    """

    usage = STAGES_USAGE

    def __init__(self, setup: TaskSetup[ClipPretraining]) -> None:
        super().__init__(setup)
        side = self.model.image_size // PATCH
        self.grid = (side, side)
        self._teacher: ClipTeacher | None = None
        self._num_drops = 0

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Load the teacher once, or open its features, so that a wrong file is refused in seconds.

        Raises:
            ConfigError: the masks leave nothing to hide or to see; no teacher is named, or it does
                not go with the run.
            CheckpointError: the teacher's file is missing or foreign.
            DataError: the features are missing, damaged or of other images.
        """
        # For its errors alone.
        masked_count(self.grid[0] * self.grid[1], self.config.mask_ratio)
        if self.config.features:
            for dataset in (train, val):
                self._features(dataset)
        else:
            load_teacher(self.config.teacher, self.config.teacher_model, self.model.image_size)

    def input_digests(self) -> dict[str, str]:
        """Of the features, or of the teacher that is asked instead."""
        if self.config.features:
            return {"task.features": read_features(self.config.features).digest}
        return {"task.teacher": teacher_digest(self.config.teacher)}

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """Random crops, with the teacher's features where they are stored."""
        return crop_train_loader(self.setup, train, share, self._features(train))

    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        """Central crops, with the teacher's features where they are stored."""
        return crop_eval_loader(self.setup, val, share, self._features(val))

    def _features(self, dataset: ShardedDataset) -> Features | None:
        """The stored features of a split; None where the teacher is asked instead."""
        return open_features(self.setup, dataset) if self.config.features else None

    def build(self) -> DistillationNetwork:
        """The student, weights drawn from the seed or loaded."""
        # The same first weights on every worker, without sending them around.
        torch.manual_seed(self.seed)
        distiller = create_distiller(
            self.model.name,
            teacher_dim=TEACHERS[self.config.teacher_model].width,
            image_size=self.model.image_size,
            pyramid_width=self.config.pyramid_width,
            **self.model.trunk_changes(),
        )
        if self.model.init:
            self.load_report = load_weights(
                distiller,
                self.model.init,
                key=self.model.init_key,
                partial=self.model.partial_init,
            )
        distiller.set_grad_checkpointing(self.model.checkpoint_activations)
        self._num_drops = distiller.num_drops
        return DistillationNetwork(distiller, self.config.loss)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Ask the teacher, normalise the images, draw masks and drop paths."""
        ids = batch["sample_id"]
        teacher = batch["teacher"] if "teacher" in batch else self._ask_teacher(batch["image"])
        mask = block_mask(
            ids,
            seed=self.seed,
            epoch=epoch,
            grid=self.grid,
            masked=masked_count(self.grid[0] * self.grid[1], self.config.mask_ratio),
            smallest=self.config.smallest_block,
        )
        return {
            **batch,
            "image": normalise(batch["image"]),
            "mask": mask,
            "teacher": teacher,
            "drop_noise": uniform_torch(self.seed, epoch, ids, Stream.DROP_PATH, self._num_drops),
        }

    def _ask_teacher(self, images: Tensor) -> Tensor:
        """The teacher's tokens of whole images uint8 (B, 3, S, S), float16 (B, L, T)."""
        if self._teacher is None:
            config = self.config
            teacher = load_teacher(config.teacher, config.teacher_model, self.model.image_size)
            self._teacher = teacher.to(images.device)
        return self._teacher(images)

    def layer_ids(self, network: DistillationNetwork) -> dict[str, int]:
        """Depths of the student's parameters."""
        distiller = network.distiller
        return {f"distiller.{name}": depth for name, depth in layer_ids(distiller).items()}

    def no_weight_decay(self, network: DistillationNetwork) -> set[str]:
        """Vectors, position tables and the mask token."""
        distiller = network.distiller
        # The mask token has three axes, so that the rule for vectors does not catch it.
        return {f"distiller.{name}" for name in no_weight_decay(distiller) | {"mask_token"}}

    def evaluate(
        self, network: DistillationNetwork, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """Loss on held-out images at fixed masks, and a nearest-neighbour probe of the trunk."""
        # Epoch 0 at each evaluation: losses compare only if their masks are the same.
        prepared = (self.prepare(batch, epoch=0) for batch in batches)
        return evaluate_pretraining(network, network.distiller.trunk, prepared, reduce)

    def multiply_adds(self, network: DistillationNetwork) -> dict[str, int]:
        """Of the student, and of the teacher unless its features are read."""
        distiller = network.distiller
        size = self.model.image_size
        adds = {"student": multiply_adds(distiller, size)}
        if not self.config.features:
            adds["teacher"] = teacher_multiply_adds(self.config.teacher_model, size)
        return adds

    def export(self, network: DistillationNetwork, path: Path) -> None:
        """Write the student: trunk, pyramid and the projections to the teacher's width."""
        save_model(
            network.distiller,
            path,
            {"task": self.config.name, "crop_fraction": str(self.model.evaluation_crop)},
        )
