"""Input pipelines side by side: each yields batches of random 224-pixel crops as uint8.

Every pipeline reads the same JPEGs, draws RandomResizedCrop(0.08..1) and a flip, resizes with
antialiased bicubic interpolation, and hands over a batch of pixels, not normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading.crop_loader import TrainLoader
from itpn_ray.data.loading.decode import decode_box, resize_square
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.transforms.crops import random_resized_crops
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import start_ray

SIZE = 224
_RUNNING = ExitStack()
"""Keeps Ray up as long as this process: dropped, Ray Data starts one of its own, all servers on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a pipeline is given: data, images a batch, workers or threads, its rank, a cache."""

    data: str
    batch: int
    workers: int
    rank: int = 0
    world: int = 1
    cache: str = ""


Epochs = Callable[[int], Iterable[Tensor]]
"""From an epoch's number to its batches of pixels, (batch, 3, 224, 224) uint8."""


def ours_by_ray(setting: Setting) -> Epochs:
    """Arrow shards, references through Ray Data, threads."""
    _RUNNING.enter_context(start_ray(RayConfig(num_gpus=0)))
    return _ours(setting, "ray")


def ours_by_threads(setting: Setting) -> Epochs:
    """Arrow shards, threads, no Ray."""
    return _ours(setting, "threads")


def _ours(setting: Setting, transport: str) -> Epochs:
    loader = TrainLoader(
        open_dataset(setting.data, "train"),
        LoaderConfig(transport=transport, threads=setting.workers, cache_dir=setting.cache),
        image_size=SIZE,
        augment=AugmentConfig(),
        seed=0,
        global_batch=setting.batch * setting.world,
        rank=setting.rank,
        world=setting.world,
    )
    return lambda epoch: (batch["image"] for batch in loader.epoch(epoch))


def plain_threads(setting: Setting) -> Epochs:
    """No framework: a list of mapped images, a pool of threads, the same decoder."""
    dataset = open_dataset(setting.data, "train")
    shards = [dataset.shard(i) for i in range(len(dataset.shards))]
    images = [shard.image(row) for shard in shards for row in range(len(shard))]
    pool = ThreadPoolExecutor(setting.workers, initializer=lambda: torch.set_num_threads(1))
    widths, heights = (dataset.index.column(name).to_numpy() for name in ("width", "height"))
    random = np.random.default_rng(0)

    def fill(out: Tensor, rows: np.ndarray, boxes: np.ndarray) -> None:
        for place, row, box in zip(out, rows.tolist(), boxes.tolist(), strict=True):
            _, part = decode_box(images[row], tuple(box))
            place.copy_(resize_square(part, SIZE, row % 2 == 0))

    def epoch(number: int) -> Iterator[Tensor]:
        order = random.permutation(len(images))
        waiting = []
        for start in range(0, len(order) - setting.batch + 1, setting.batch):
            rows = order[start : start + setting.batch]
            boxes = random_resized_crops(
                widths[rows], heights[rows], rows, seed=0, epoch=number, min_scale=0.08
            )
            out = torch.empty(len(rows), SIZE, SIZE, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            parts = [slice(i, i + 32) for i in range(0, len(rows), 32)]
            tasks = [pool.submit(fill, out[part], rows[part], boxes[part]) for part in parts]
            waiting.append((out, tasks))
            if len(waiting) > 8:
                yield _finish(*waiting.pop(0))
        for out, tasks in waiting:
            yield _finish(out, tasks)

    return epoch


def _finish(out: Tensor, tasks: list) -> Tensor:
    for task in tasks:
        task.result()
    return out


TRANSFORM = v2.Compose(
    [
        v2.RandomResizedCrop(SIZE, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
    ]
)


def decode_and_crop(image: bytes) -> Tensor:
    """Bytes -> (3, 224, 224) uint8 by torchvision's decoder and transforms."""
    encoded = torch.frombuffer(bytearray(image), dtype=torch.uint8)
    return TRANSFORM(decode_jpeg(encoded, mode=ImageReadMode.RGB))


def timm_loader(setting: Setting) -> Epochs:
    """DataLoader with timm's transforms (PIL) and its collate function, before its normalising."""
    from timm.data import create_transform
    from timm.data.loader import fast_collate

    transform = create_transform(
        SIZE, is_training=True, use_prefetcher=True, color_jitter=None, interpolation="bicubic"
    )
    dataset = ImageFolder(setting.data, transform)
    return _by_dataloader(dataset, setting, shuffle=True, collate_fn=fast_collate)


class DecodedFolder(Dataset):
    """A folder of images through torchvision's decoder."""

    def __init__(self, folder: str) -> None:
        self.samples = ImageFolder(folder).samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return decode_and_crop(Path(path).read_bytes()), label


def torchvision_loader(setting: Setting) -> Epochs:
    """DataLoader with torchvision's decode_jpeg and v2 transforms."""
    return _by_dataloader(DecodedFolder(setting.data), setting, shuffle=True)


def webdataset_loader(setting: Setting) -> Epochs:
    """Tar shards through webdataset, torchvision's decoder."""
    import webdataset

    tars = sorted(str(path) for path in Path(setting.data).glob("*.tar"))
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=100, workersplitter=webdataset.split_by_worker)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(decode_and_crop, int)
        .batched(setting.batch, partial=False)
    )
    loader = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=setting.workers, persistent_workers=True
    )
    return lambda epoch: (torch.as_tensor(images) for images, _ in loader)


def litdata_loader(setting: Setting) -> Epochs:
    """LitData's chunks, torchvision's decoder."""
    import litdata

    class Decoded(litdata.StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return decode_and_crop(sample["image"]), sample["label"]

    dataset = Decoded(setting.data, shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=setting.batch, num_workers=setting.workers, persistent_workers=True
    )
    return lambda epoch: (images for images, _ in loader)


def mosaic_loader(setting: Setting) -> Epochs:
    """MosaicML Streaming's shards, torchvision's decoder."""
    import streaming

    class Decoded(streaming.StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return decode_and_crop(sample["image"]), sample["label"]

    dataset = Decoded(local=setting.data, shuffle=True, batch_size=setting.batch)
    return _by_dataloader(dataset, setting)


def _by_dataloader(dataset: Dataset, setting: Setting, **options: object) -> Epochs:
    loader = DataLoader(
        dataset,
        batch_size=setting.batch,
        num_workers=setting.workers,
        persistent_workers=True,
        drop_last=True,
        **options,
    )
    return lambda epoch: (images for images, _ in loader)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline, the format it reads, and the library it needs beyond this project's own."""

    open: Callable[[Setting], Epochs]
    format: str
    needs: str = ""


PIPELINES = {
    "ours, Ray Data": Pipeline(open=ours_by_ray, format="arrow"),
    "ours, threads": Pipeline(open=ours_by_threads, format="arrow"),
    "plain threads": Pipeline(open=plain_threads, format="arrow"),
    "DataLoader as timm": Pipeline(open=timm_loader, format="files"),
    "DataLoader, torchvision": Pipeline(open=torchvision_loader, format="files"),
    "webdataset": Pipeline(open=webdataset_loader, format="tars", needs="webdataset"),
    "LitData": Pipeline(open=litdata_loader, format="litdata", needs="litdata"),
    "MosaicML Streaming": Pipeline(open=mosaic_loader, format="mds", needs="streaming"),
}
