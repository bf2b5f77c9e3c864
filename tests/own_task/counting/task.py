"""Counting: a head, a loss, an evaluation, predictions and a weight file of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from counting.config import Counting
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.data.loading.image_folder import Answer, FolderImage, Predict
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise, prefetch
from itpn_ray.evaluation.speed import Speed, compare_speed
from itpn_ray.models import create_trunk
from itpn_ray.models.weights.raw_files import locate, read_safetensors
from itpn_ray.models.weights.read import read_weights
from itpn_ray.tasks.base import Task, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.crop_loaders import crop_eval_loader, crop_train_loader
from itpn_ray.tasks.trained import LOADER, EvaluationPlace, Evaluator, PredictionPlace, counted
from itpn_ray.terminal.item_progress import Count


class DotCounter(nn.Module):
    """Images (B, 3, S, S) -> how many dots each shows, (B,)."""

    def __init__(self, size: str, image_size: int) -> None:
        super().__init__()
        self.size, self.image_size = size, image_size
        self.trunk = create_trunk(size, image_size=image_size)
        self.head = nn.Linear(self.trunk.widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        last = self.trunk.stages(images)[-1]  # (B, N, 1, 1, d)
        return self.head(last.mean(dim=(1, 2, 3))).squeeze(1)


class CountingNetwork(nn.Module):
    """The counter with its loss."""

    def __init__(self, counter: DotCounter, beta: float) -> None:
        super().__init__()
        self.counter, self.beta = counter, beta

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        found = self.counter(batch["image"]).float()
        return {"loss": F.smooth_l1_loss(found, batch["label"].float(), beta=self.beta)}


def evaluate_counter(counter: nn.Module, batches: Iterable[Batch], reduce: Reduce) -> Evaluation:
    """Mean distance in dots, and the share of images that are exactly right."""
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        off = (counter(normalise(batch["image"])).float() - batch["label"]).abs().double().cpu()
        sums += torch.stack([off.sum(), (off < 0.5).sum(), torch.tensor(len(off))])
    off, right, images = reduce(sums).tolist()
    metrics = {"dots_off": off / images, "exact": right / images}
    return Evaluation(split="val", metrics=metrics, details={"images": int(images)})


class CountingTask(Task[Counting, CountingNetwork, DotCounter]):
    """Learn to count."""

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        return crop_train_loader(self.setup, train, share)

    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        return crop_eval_loader(self.setup, val, share)

    def build(self) -> CountingNetwork:
        torch.manual_seed(self.seed)
        counter = DotCounter(self.model.name, self.model.image_size)
        if self.model.init:
            given = read_weights(self.model.init).tensors
            own = {n.removeprefix("trunk."): t for n, t in given.items() if n.startswith("trunk.")}
            counter.trunk.load_state_dict(own)
        counter.trunk.set_migration(self.model.migration)
        return CountingNetwork(counter, self.config.beta)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        return {**batch, "image": normalise(batch["image"])}

    def layer_ids(self, network: CountingNetwork) -> dict[str, int]:
        return {name: int("head" in name) for name, _ in network.named_parameters()}

    def no_weight_decay(self, network: CountingNetwork) -> set[str]:
        return {name for name, value in network.named_parameters() if value.ndim < 2}

    @torch.no_grad()
    def evaluate(
        self, network: CountingNetwork, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        return [evaluate_counter(network.counter, batches, reduce)]

    def export(self, network: CountingNetwork, path: Path) -> None:
        counter = network.counter
        about = {"size": counter.size, "image_size": counter.image_size}
        metadata = {"task": self.config.name, "counter": json.dumps(about)}
        save_file(
            {name: t.contiguous() for name, t in counter.state_dict().items()}, path, metadata
        )

    @classmethod
    def load_lines(cls, path: str) -> list[str]:
        return ["from counting.task import CountingTask", f'model, _ = CountingTask.load("{path}")']

    @classmethod
    def load(cls, path: str, key: str | None = None) -> tuple[DotCounter, tuple[str, ...]]:
        metadata, tensors = read_safetensors(locate(path))
        counter = DotCounter(**json.loads(metadata["counter"]))
        counter.load_state_dict(tensors)
        return counter.eval(), ()

    @classmethod
    def class_names(cls, network: DotCounter, usual: Sequence[str] = ()) -> list[str]:
        return list(usual)

    @classmethod
    def names_classes(cls, network: DotCounter) -> bool:
        return True

    @classmethod
    def accelerate(
        cls, network: DotCounter, *, migration: float, window: int | None, gathering: bool
    ) -> None:
        network.trunk.set_migration(migration)

    @classmethod
    def evaluator(
        cls, network: DotCounter, classes: Sequence[str], place: EvaluationPlace
    ) -> Evaluator[DotCounter]:
        return CountingEvaluator(network, place)

    @classmethod
    def predictor(
        cls, network: DotCounter, classes: Sequence[str], place: PredictionPlace
    ) -> Predict:
        @torch.no_grad()
        def predict(images: Sequence[FolderImage]) -> list[Answer]:
            crops = [centre_crop(image.pixels, network.image_size, 1.0) for image in images]
            found = network(normalise(torch.stack(crops).to(place.device))).tolist()
            return [
                Answer(entries=[{"file_name": image.path, "dots": dots}])
                for image, dots in zip(images, found, strict=True)
            ]

        return predict


class CountingEvaluator(Evaluator[DotCounter]):
    """Evaluates trained counters."""

    shown = ("dots_off", "exact")

    def __init__(self, network: DotCounter, place: EvaluationPlace) -> None:
        self.place, self.size = place, network.image_size

    def evaluate(self, network: DotCounter, ratio: float, count: Count) -> Evaluation:
        dataset = self.place.dataset
        loader = EvalLoader(dataset, LOADER, image_size=self.size, crop=1.0, batch=8)
        batches = counted(prefetch(loader, self.place.device), len(dataset), count)
        return evaluate_counter(network, batches, self.place.reduce)

    def speeds(self, networks: Mapping[float, DotCounter]) -> dict[float, Speed]:
        return compare_speed(networks, image_size=self.size, batch=2)
