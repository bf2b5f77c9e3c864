"""Figure 6: what the token in the middle of an image attends to, network beside network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.models import PixelAutoencoder, load_model
from itpn_ray.models.networks.visualize import attention_map, decoder_attention_map
from itpn_ray.reproduction.plan import PlannedCell
from itpn_ray.runs.folder import EXPORT
from itpn_ray.training.claim import run_folder

SHOWN = 4
"""Images, the first of the held-out ones."""


def draw_attention(cells: list[PlannedCell], path: Path) -> None:
    """Draw the images, and beside them the maps of each network's encoder and decoder.

    Each map is the mean over the heads of the last block, of the networks of the first seed.

    Raises:
        CheckpointError: weights cannot be read.
    """
    first = cells[0].runs[0][-1].config
    images = _images(first.data, first.model.image_size, first.model.evaluation_crop)
    maps: dict[str, Tensor] = {}
    for one in cells:
        network = load_model(run_folder(one.runs[0][-1].config) / EXPORT)
        assert isinstance(network, PixelAutoencoder)
        rows, columns = network.trunk.grid(images)
        query, seen = (rows // 2, columns // 2), normalise(images)
        maps[f"{one.cell.row}: encoder"] = attention_map(network.trunk, seen, query).mean(dim=1)
        maps[f"{one.cell.row}: decoder"] = decoder_attention_map(network, seen, query).mean(dim=1)
    _draw(images, maps, path)


def _images(data: str, side: int, crop: float) -> Tensor:
    """The first held-out images, (N, 3, S, S) uint8."""
    loader = EvalLoader(
        open_dataset(data, "val"),
        LoaderConfig(transport="threads", threads=1),
        image_size=side,
        batch=SHOWN,
        crop=crop,
    )
    return next(iter(loader))["image"][:SHOWN]


def _draw(images: Tensor, maps: dict[str, Tensor], path: Path) -> None:
    """A row an image: itself, then each map (N, H, W) over it."""
    from matplotlib.figure import Figure

    columns = 1 + len(maps)
    figure = Figure(figsize=(1.8 * columns, 1.9 * len(images)), layout="constrained")
    panels = figure.subplots(len(images), columns, squeeze=False)
    side = images.shape[-1]
    # Edges of pixels lie at halves, as their centres are whole numbers.
    extent = (-0.5, side - 0.5, side - 0.5, -0.5)
    for number, row in enumerate(panels):
        for panel in row:
            panel.imshow(torch.permute(images[number], (1, 2, 0)).numpy())
            panel.set_axis_off()
        for panel, one in zip(row[1:], maps.values(), strict=True):
            panel.imshow(one[number].numpy(), cmap="inferno", alpha=0.7, extent=extent)
    for panel, name in zip(panels[0], ("image", *maps), strict=True):
        panel.set_title(name.replace(": ", "\n"), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
