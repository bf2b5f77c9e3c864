"""Images of a prepared split as they are stored and as the network will see them.

Shapes: an image is (3, H, W) uint8; n objects of an image have boxes (n, 4), x1, y1, x2, y2 in
pixels, and masks (n, H, W) bool.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from itpn_ray.data.annotations import run_lengths
from itpn_ray.data.annotations.class_masks import Mask, class_pixels, decode_mask
from itpn_ray.data.annotations.tiles import TileReader
from itpn_ray.data.config import PreviewConfig
from itpn_ray.data.loading.crop_loader import TrainLoader
from itpn_ray.data.loading.decode import decode_rgb
from itpn_ray.data.loading.order import TrainOrder
from itpn_ray.data.store.shard_cache import local_copies
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.data.synthetic.palette import class_colour
from itpn_ray.data.transforms.crops import random_resized_crops
from itpn_ray.data.transforms.detection_views import training_views
from itpn_ray.data.transforms.segmentation_views import training_crop, view_mask
from itpn_ray.data.transforms.turned_views import training_tiles, turned_objects
from itpn_ray.formatting import number_of
from itpn_ray.models.rotated.boxes import corners_of
from itpn_ray.storage import is_s3

Hide = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""From (B,) sample ids to (B, L) patches, row by row, True where hidden."""

_SIDE = 320  # longest side of a shown image, pixels
_REMOTE_WINDOW = 4  # shards that the images of a remote split are taken from
_GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True)
class PreviewImage:
    """One image of the sheet; all images are JPEG bytes.

    Attributes:
        sample_id: row of the split.
        path: where it came from.
        caption: its class or its number of objects, and its size.
        stored: as it is stored, with the crop or the objects drawn in.
        augmented: after the augmentation, with the objects drawn in.
        masked: likewise with the hidden patches grey; None where nothing is hidden.
    """

    sample_id: int
    path: str
    caption: str
    stored: bytes
    augmented: bytes
    masked: bytes | None


def preview_images(
    uri: str, config: PreviewConfig, hide: Hide | None = None
) -> Iterator[PreviewImage]:
    """The first images of an epoch.

    Args:
        uri: the prepared data set.
        config: which images, and how they are augmented.
        hide: the patches that pre-training hides of the crops; None: none.

    Raises:
        DataError: there is no such data set or split, or an image cannot be decoded.
    """
    remote = is_s3(uri)
    copies = local_copies(config.loader) if remote else None
    dataset = open_dataset(uri, config.split, local_path=copies)
    loader = dataclasses.replace(
        config.loader, transport="threads", window=_REMOTE_WINDOW if remote else 0
    )
    config = dataclasses.replace(config, loader=loader, images=min(config.images, len(dataset)))
    if dataset.manifest.kind == "rotated":
        yield from _tile_sights(dataset, config)
    elif dataset.manifest.kind == "detection":
        yield from _detection_sights(dataset, config)
    elif dataset.manifest.kind == "segmentation":
        yield from _mask_sights(dataset, config)
    else:
        yield from _crop_sights(dataset, config, hide)


def _crop_sights(
    dataset: ShardedDataset, config: PreviewConfig, hide: Hide | None
) -> Iterator[PreviewImage]:
    """Images of classification and pre-training: the crop in the image, and what it becomes."""
    loader = TrainLoader(
        dataset,
        config.loader,
        image_size=config.image_size,
        augment=config.augment,
        seed=config.seed,
        # One global batch is the whole sheet.
        global_batch=config.images,
    )
    batch = next(loader.epoch(config.epoch))
    loader.close()
    ids = batch["sample_id"].numpy()
    rows = [dataset[i] for i in (ids % len(dataset)).tolist()]
    # Drawn again as the loader drew them: crops are a function of seed, epoch and sample id.
    boxes = random_resized_crops(
        [row["width"] for row in rows],
        [row["height"] for row in rows],
        ids,
        seed=config.seed,
        epoch=config.epoch,
        min_scale=config.augment.min_scale,
    )
    hidden = None if hide is None else hide(ids)
    for i, row in enumerate(rows):
        top, left, height, width = boxes[i].tolist()
        marked = torch.tensor([[left, top, left + width, top + height]])
        crop = batch["image"][i]
        yield PreviewImage(
            sample_id=int(ids[i]),
            path=row["path"],
            caption=f"{_class_names(dataset, row)}{row['width']} × {row['height']}",
            stored=_draw(_decoded(row), marked, [(255, 255, 255)]),
            augmented=_draw(crop),
            masked=None if hidden is None else _draw(_hide(crop, hidden[i])),
        )


def _detection_sights(dataset: ShardedDataset, config: PreviewConfig) -> Iterator[PreviewImage]:
    """Images of detection: all objects in the image, and what is left of them in the view."""
    order = TrainOrder(
        starts=dataset.starts,
        global_batch=config.images,
        seed=config.seed,
        window=config.loader.window,
    )
    ids = order.epoch(config.epoch)[0]
    rows = [dataset[i] for i in ids.tolist()]
    views = training_views(
        [row["width"] for row in rows],
        [row["height"] for row in rows],
        ids,
        seed=config.seed,
        epoch=config.epoch,
        config=config.detection,
    )
    for sample_id, row, view in zip(ids.tolist(), rows, views, strict=True):
        image = _decoded(row)
        # An image without objects has no boxes: (0,) -> (0, 4).
        boxes = torch.tensor(row["boxes"], dtype=torch.float64).reshape(-1, 4)
        masks = _masks(row)
        colours = [class_colour(label) for label in row["classes"]]
        moved, kept = view.boxes(boxes)
        # `fromkeys` drops repeats and keeps the order.
        names = [dataset.classes[label] for label in dict.fromkeys(row["classes"])]
        yield PreviewImage(
            sample_id=sample_id,
            path=row["path"],
            caption=(
                f"{number_of(len(boxes), 'object')} ({', '.join(names[:4])}), "
                f"{row['width']} × {row['height']}"
            ),
            stored=_draw(image, boxes, colours, masks),
            augmented=_draw(
                view.image(image),
                moved[kept],
                [colour for colour, keep in zip(colours, kept.tolist(), strict=True) if keep],
                view.masks(masks)[kept],
            ),
            masked=None,
        )


def _tile_sights(dataset: ShardedDataset, config: PreviewConfig) -> Iterator[PreviewImage]:
    """Tiles of rotated detection: all turned boxes, and what is learned from in the view."""
    order = TrainOrder(
        starts=dataset.starts,
        global_batch=config.images,
        seed=config.seed,
        window=config.loader.window,
    )
    ids = order.epoch(config.epoch)[0]
    reader = TileReader(dataset)
    tiles = [reader[sample_id] for sample_id in ids.tolist()]
    views = training_tiles(
        [tile.size[1] for tile in tiles],
        [tile.size[0] for tile in tiles],
        ids,
        seed=config.seed,
        epoch=config.epoch,
        config=config.rotated,
    )
    for sample_id, tile, view in zip(ids.tolist(), tiles, views, strict=True):
        image, seen = reader.image(sample_id), turned_objects(tile, view)
        names = [dataset.classes[label] for label in dict.fromkeys(tile.classes.tolist())]
        x, y = tile.origin
        yield PreviewImage(
            sample_id=sample_id,
            path=tile.path,
            caption=(
                f"{number_of(len(tile), 'object')} ({', '.join(names[:4])}), "
                f"{tile.size[1]} × {tile.size[0]} at ({x}, {y})"
            ),
            stored=_draw(
                image,
                corners=torch.from_numpy(tile.corners),
                colours=[
                    _GREY if hard else class_colour(label)
                    for label, hard in zip(tile.classes.tolist(), tile.crowds, strict=True)
                ],
            ),
            augmented=_draw(
                view.image(image),
                corners=corners_of(seen.boxes),
                colours=[class_colour(label) for label in seen.labels.tolist()],
            ),
            masked=None,
        )


def _mask_sights(dataset: ShardedDataset, config: PreviewConfig) -> Iterator[PreviewImage]:
    """Images of segmentation: the classes of pixels, and the crop that is seen of them."""
    order = TrainOrder(
        starts=dataset.starts,
        global_batch=config.images,
        seed=config.seed,
        window=config.loader.window,
    )
    for sample_id in order.epoch(config.epoch)[0].tolist():
        row = dataset[sample_id]
        image, mask = _decoded(row), decode_mask(row["mask"])
        view = training_crop(
            mask, sample_id, seed=config.seed, epoch=config.epoch, config=config.segmentation
        )
        pixels = class_pixels(mask)
        named = [dataset.classes[n] for n in sorted(pixels, key=lambda n: -pixels[n])[:4]]
        yield PreviewImage(
            sample_id=sample_id,
            path=row["path"],
            caption=(
                f"{number_of(len(pixels), 'class', 'classes')} ({', '.join(named)}), "
                f"{row['width']} × {row['height']}"
            ),
            stored=_draw(_tinted(image, mask)),
            augmented=_draw(_tinted(view.image(image), view_mask(view, mask))),
            masked=None,
        )


def _tinted(image: Tensor, mask: Mask) -> Tensor:
    """An image (3, H, W) in the colours of its mask (H, W); ignored pixels are grey."""
    colours = np.array([_GREY, *map(class_colour, range(int(mask.max()) + 1))], np.float32)
    # Class -1 takes the first colour, grey: (H, W) -> (H, W, 3) -> (3, H, W).
    tint = torch.from_numpy(colours[mask.astype(np.int64) + 1]).permute(2, 0, 1)
    return (0.45 * image + 0.55 * tint).byte()


def _decoded(row: dict[str, Any]) -> Tensor:
    return decode_rgb(np.frombuffer(row["image"], np.uint8))


def _class_names(dataset: ShardedDataset, row: dict[str, Any]) -> str:
    """The class of a row, or all of those that it shows."""
    labels = row.get("labels", [row["label"]] if row["label"] >= 0 else [])
    return "".join(f"{dataset.classes[label]}, " for label in labels)


def _masks(row: dict[str, Any]) -> Tensor:
    """Masks of a row's objects, (n, H, W); empty where an object has none."""
    size = row["width"], row["height"]
    masks = torch.zeros(len(row["boxes"]), size[1], size[0], dtype=torch.bool)
    for mask, parts in zip(masks, row["polygons"], strict=True):
        drawn = Image.new("1", size)
        for part in parts:
            ImageDraw.Draw(drawn).polygon(part, fill=1)
        mask |= torch.from_numpy(np.array(drawn))
    for mask, runs in zip(masks, row["runs"], strict=True):
        if runs:
            mask |= torch.from_numpy(run_lengths.decode(runs, size[1], size[0]).copy())
    return masks


def _hide(crop: Tensor, hidden: npt.NDArray[np.bool_]) -> Tensor:
    """The crop (3, S, S) with its hidden patches grey; ``hidden`` (L,) row by row."""
    # Patches form a square grid: L = side * side.
    side = round(len(hidden) ** 0.5)
    patch = crop.shape[1] // side
    grid = torch.from_numpy(hidden).reshape(side, side)
    pixels = grid.repeat_interleave(patch, 0).repeat_interleave(patch, 1)  # (S, S)
    return torch.where(pixels, torch.tensor(_GREY, dtype=torch.uint8)[:, None, None], crop)


def _draw(
    source_image: Tensor,
    boxes: Tensor | None = None,
    colours: Sequence[tuple[int, int, int]] = (),
    masks: Tensor | None = None,
    corners: Tensor | None = None,
) -> bytes:
    """An image with tinted masks and the outlines of boxes, at most ``_SIDE`` pixels, as JPEG.

    Turned boxes are given by their corners, (n, 4, 2).
    """
    if masks is not None:
        for mask, colour in zip(masks, colours, strict=True):
            tint = torch.tensor(colour, dtype=torch.float32)[:, None, None]
            source_image = torch.where(
                mask, (0.55 * source_image + 0.45 * tint).byte(), source_image
            )
    image = Image.fromarray(source_image.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, _SIDE / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    pen = ImageDraw.Draw(image)
    if boxes is not None:
        for box, colour in zip((boxes * scale).tolist(), colours, strict=True):
            x1, y1, x2, y2 = box
            # Right and lower edges lie beyond the last pixels of a box.
            edges = x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)
            # Black, one pixel wider, under the colour: outlines stay visible on any background.
            pen.rectangle(edges, outline=(0, 0, 0), width=3)
            pen.rectangle(edges, outline=colour, width=2)
    if corners is not None:
        for outline, colour in zip((corners.flatten(1) * scale).tolist(), colours, strict=True):
            # Back to the first corner.
            closed = [*outline, *outline[:2]]
            pen.line(closed, fill=(0, 0, 0), width=3)
            pen.line(closed, fill=colour, width=2)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()
