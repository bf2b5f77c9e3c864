"""Writes the embedded images in the layouts of the real data sets.

Every image is a function of (seed, split, number), so the same config gives the same bytes
whatever the number of processes. The folder appears whole, under its name, when all is written.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from itpn_ray.data.annotations import coco_json
from itpn_ray.data.prepare.config import SynthesizeConfig
from itpn_ray.data.synthetic import drawing, masks, scenes, turned
from itpn_ray.errors import ConfigError

SPLITS = ("train", "val")
_MARK = "images.json"
_ADE_SPLITS = {"train": "training", "val": "validation"}
_CHUNK = 64
_QUALITY = 90

ProgressCallback = Callable[[int, int], None]
Chunk = tuple[str, range]
CocoImage = tuple[dict[str, Any], list[dict[str, Any]]]
"""An entry of COCO's ``images``, and its ``annotations`` without their numbers."""
Result = TypeVar("Result")


def generate(config: SynthesizeConfig, progress: ProgressCallback | None = None) -> Path:
    """Draw the images that ``config`` describes; at once where they are there already.

    Args:
        config: what to draw and where.
        progress: called with (images drawn, images in all) now and then.

    Returns:
        The folder, ``config.out``.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
    """
    target = Path(config.out).expanduser().absolute()
    expected = _mark(config)
    if target.exists():
        mark = target / _MARK
        if mark.is_file() and mark.read_text() == expected:
            return target
        if not target.is_dir() or any(target.iterdir()):
            raise ConfigError(
                "images.out",
                config.out,
                "holds something else already",
                "Give a new folder or remove this one",
            )
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        _LAYOUTS[config.layout](config, draft, progress)
        (draft / _MARK).write_text(expected)
        # Empty, as was checked above; not every system renames over a folder.
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    except OSError as error:
        raise ConfigError(
            "images.out", config.out, f"cannot be written: {error}", "Give another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def generator_of(config: SynthesizeConfig, split: str, number: int) -> np.random.Generator:
    """The random numbers of one image."""
    return np.random.default_rng([config.seed, SPLITS.index(split), number])


def size_of(rng: np.random.Generator, side: int) -> tuple[int, int]:
    """Width and height, each ``side`` give or take a quarter."""
    # + 1: the largest side is drawn too.
    width, height = rng.integers(side * 3 // 4, side * 5 // 4 + 1, 2)
    return int(width), int(height)


def encode(pixels: drawing.Array) -> bytes:
    """An image (H, W, 3) in 0..255 as JPEG."""
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def chunks(config: SynthesizeConfig) -> Iterator[Chunk]:
    """The work in pieces: (split, image numbers)."""
    for split in SPLITS:
        count = getattr(config, split)
        for start in range(0, count, _CHUNK):
            yield split, range(start, min(start + _CHUNK, count))


def run_chunks(
    config: SynthesizeConfig, draw: Callable[[Chunk], Result], progress: ProgressCallback | None
) -> Iterator[tuple[str, Result]]:
    """Map ``draw`` over `chunks` in ``config.num_workers`` processes: (split, result) in order."""
    workers = (os.cpu_count() or 1) if config.num_workers is None else config.num_workers
    pieces, total, done = list(chunks(config)), config.train + config.val, 0
    # Not forked: the caller may have threads (torch, Ray), whose locks a fork would copy locked.
    with ProcessPoolExecutor(max(workers, 1), get_context("spawn")) as pool:
        found = pool.map(draw, pieces) if workers > 1 else map(draw, pieces)
        for (split, numbers), result in zip(pieces, found, strict=True):
            yield split, result
            done += len(numbers)
            if progress is not None:
                progress(done, total)


def _write_folders(
    config: SynthesizeConfig, folder: Path, progress: ProgressCallback | None
) -> None:
    for split in SPLITS:
        for name in drawing.CLASSES:
            (folder / split / name).mkdir(parents=True)
    for _ in run_chunks(config, partial(_draw_folders, config, folder), progress):
        pass


def _draw_folders(config: SynthesizeConfig, folder: Path, piece: Chunk) -> None:
    split, numbers = piece
    for number in numbers:
        rng = generator_of(config, split, number)
        # In turn, so that the classes are balanced.
        label = number % len(drawing.CLASSES)
        pixels = drawing.draw_labelled(rng, label, *size_of(rng, config.side))
        name = f"{split}_{number:06d}.jpg"
        (folder / split / drawing.CLASSES[label] / name).write_bytes(encode(pixels))


def _write_coco(config: SynthesizeConfig, folder: Path, progress: ProgressCallback | None) -> None:
    (folder / "annotations").mkdir()
    files: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        (folder / f"{split}2017").mkdir()
        files[split] = {
            "info": {"description": "drawn by itpn-ray", "version": "1"},
            "licenses": [],
            "images": [],
            "annotations": [],
            "categories": coco_json.categories(),
        }
    for split, found in run_chunks(config, partial(_draw_coco, config, folder), progress):
        for image, objects in found:
            files[split]["images"].append(image)
            for entry in objects:
                number = len(files[split]["annotations"]) + 1
                files[split]["annotations"].append({**entry, "id": number})
    for split, content in files.items():
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))


def _draw_coco(config: SynthesizeConfig, folder: Path, piece: Chunk) -> list[CocoImage]:
    split, numbers = piece
    found = []
    for number in numbers:
        rng = generator_of(config, split, number)
        width, height = size_of(rng, config.side)
        pixels, objects = scenes.draw_scene(rng, width, height)
        name = f"{number + 1:012d}.jpg"
        (folder / f"{split}2017" / name).write_bytes(encode(pixels))
        image = {"id": number + 1, "file_name": name, "width": width, "height": height}
        found.append((image, [coco_json.annotation(thing, number + 1) for thing in objects]))
    return found


def _write_ade(config: SynthesizeConfig, folder: Path, progress: ProgressCallback | None) -> None:
    for split in _ADE_SPLITS.values():
        for part in ("images", "annotations"):
            (folder / part / split).mkdir(parents=True)
    names = (masks.GROUND, *drawing.CLASSES)
    table = ["Idx\tName", *(f"{number}\t{name}" for number, name in enumerate(names, 1))]
    (folder / f"objectInfo{len(names)}.txt").write_text("\n".join(table) + "\n")
    for _ in run_chunks(config, partial(_draw_ade, config, folder), progress):
        pass


def _draw_ade(config: SynthesizeConfig, folder: Path, piece: Chunk) -> None:
    split, numbers = piece
    for number in numbers:
        rng = generator_of(config, split, number)
        pixels, objects = scenes.draw_scene(rng, *size_of(rng, config.side), scenes.LARGE)
        name = f"ADE_{split}_{number + 1:08d}"
        place = _ADE_SPLITS[split]
        (folder / "images" / place / f"{name}.jpg").write_bytes(encode(pixels))
        mask = Image.fromarray(masks.draw_mask(objects, *pixels.shape[:2]))
        mask.save(folder / "annotations" / place / f"{name}.png")


def _write_dota(config: SynthesizeConfig, folder: Path, progress: ProgressCallback | None) -> None:
    for split in SPLITS:
        for part in ("images", "labelTxt"):
            (folder / split / part).mkdir(parents=True)
    for _ in run_chunks(config, partial(_draw_dota, config, folder), progress):
        pass


def _draw_dota(config: SynthesizeConfig, folder: Path, piece: Chunk) -> None:
    split, numbers = piece
    for number in numbers:
        rng = generator_of(config, split, number)
        pixels, things = turned.draw_turned(rng, *size_of(rng, config.side))
        name = f"P{number:04d}"
        image = Image.fromarray(pixels.astype(np.uint8))
        image.save(folder / split / "images" / f"{name}.png")
        (folder / split / "labelTxt" / f"{name}.txt").write_text(turned.label_file(things))


def _mark(config: SynthesizeConfig) -> str:
    shown = dataclasses.asdict(config)
    # Neither changes an image.
    del shown["out"], shown["num_workers"]
    # What masks had before was drawn smaller by the same settings.
    if config.layout == "ade":
        shown["sizes"] = dataclasses.asdict(scenes.LARGE)
    return json.dumps(shown, indent=1) + "\n"


_LAYOUTS: dict[str, Callable[[SynthesizeConfig, Path, ProgressCallback | None], None]] = {
    "imagenet": _write_folders,
    "coco": _write_coco,
    "ade": _write_ade,
    "dota": _write_dota,
}
