"""A contact sheet of prepared data: what is in it, and its images as the network sees them."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np

from itpn_ray.data.config import PreviewConfig
from itpn_ray.data.loading.preview import Hide, PreviewImage, preview_images
from itpn_ray.data.store.manifest import Manifest, ShardInfo, read_manifest
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.errors import ConfigError
from itpn_ray.report.html import details, esc, section, table, tiles
from itpn_ray.report.style import CSS

_MOST_CLASSES = 40
_SHEET = """
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr));gap:1rem;align-items:start}
.sheet .image div{display:flex;gap:.5rem;align-items:flex-start}
.sheet img{min-width:0;flex:1 1 0;max-height:15rem;object-fit:contain;object-position:left top}
.sheet figcaption{overflow-wrap:anywhere;font-size:.8rem}.sheet b{color:var(--ink)}
"""


def preview(
    uri: str, out: str | Path, *, config: PreviewConfig | None = None, hide: Hide | None = None
) -> Path:
    """Write a contact sheet of a prepared data set, one HTML file that needs nothing else.

    Args:
        uri: the prepared data set, local or remote.
        out: the file to write, replaced whole.
        config: which images, and how they are augmented.
        hide: what pre-training hides of them, see `Hide`; None: nothing.

    Returns:
        The file.

    Raises:
        DataError: there is no such data set or split, or an image cannot be decoded.
        ConfigError: the file cannot be written.
    """
    config = config or PreviewConfig()
    manifest = read_manifest(uri)
    body = [
        _header(uri, manifest),
        _images(list(preview_images(uri, config, hide)), config, manifest),
        *(_split(uri, name, manifest) for name in manifest.splits),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(uri)}</title><style>{CSS}{_SHEET}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    path = Path(out)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            "out", str(path), str(error), "Name a file that can be written"
        ) from error
    return path


def _header(uri: str, manifest: Manifest) -> str:
    images = sum(split.count for split in manifest.splits.values())
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    facts = {
        "images": f"{images:,}",
        "classes": f"{len(manifest.classes):,}",
        "size": _size(size),
        "mean image": _size(size / max(images, 1)),
        "quarantined": f"{manifest.quarantined:,}",
    }
    over = f'<p class="over">Prepared images · {esc(manifest.kind)}</p>'
    note = (
        f"Red, green and blue of the training images, 0 to 1: mean "
        f"{_channels(manifest.channel_mean)}, deviation {_channels(manifest.channel_std)}."
    )
    return f"{over}<h1>{esc(uri)}</h1>{tiles(facts)}<p class='soft'>{note}</p>"


def _images(found: list[PreviewImage], config: PreviewConfig, manifest: Manifest) -> str:
    text = (
        f"The first images of epoch {config.epoch} of {config.split} with seed {config.seed}: "
        "as they are stored, and as the network sees them."
    )
    if manifest.kind in ("classification", "multilabel", "unlabelled"):
        text += " The frame is the crop."
    figures = "".join(map(_figure, found))
    return section("Images", f"<p>{esc(text)}</p>", f'<div class="sheet">{figures}</div>')


def _figure(sight: PreviewImage) -> str:
    images = {"stored": sight.stored, "seen": sight.augmented, "masked": sight.masked}
    shown = "".join(
        f'<img alt="{name}" title="{name}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for name, data in images.items()
        if data is not None
    )
    caption = f"<b>{esc(sight.caption)}</b> · {sight.sample_id} · {esc(sight.path)}"
    return f'<figure class="image"><div>{shown}</div><figcaption>{caption}</figcaption></figure>'


def _split(uri: str, name: str, manifest: Manifest) -> str:
    split = manifest.splits[name]
    index = ShardedDataset(uri, name, manifest).index
    longer = np.maximum(index.column("width").to_numpy(), index.column("height").to_numpy())
    low, middle, high = np.percentile(longer, [5, 50, 95])
    facts = {
        "images": f"{split.count:,}",
        "shards": f"{len(split.shards):,}",
        "size": _size(sum(shard.bytes for shard in split.shards)),
        "longer side": f"{low:.0f} · {middle:.0f} · {high:.0f} px",
    }
    note = f"<p class='soft'>Longer side: 5 %, 50 % and 95 % of the images. {esc(split.origin)}</p>"
    return section(
        name,
        tiles(facts),
        note,
        details("Classes", _classes(manifest.classes, split.class_counts)) if split.count else "",
        details("Shards", table([_shard(shard) for shard in split.shards])),
    )


def _classes(classes: tuple[str, ...], counts: tuple[int, ...]) -> str:
    """The most and the least frequent classes."""
    total = max(sum(counts), 1)
    ranked = sorted(zip(classes, counts, strict=True), key=lambda entry: -entry[1])
    if len(ranked) > _MOST_CLASSES:
        ranked = ranked[: _MOST_CLASSES // 2] + ranked[-_MOST_CLASSES // 2 :]
    return table(
        [{"class": name, "count": count, "share": f"{count / total:.2%}"} for name, count in ranked]
    )


def _shard(shard: ShardInfo) -> dict[str, object]:
    return {
        "file": shard.file,
        "images": shard.rows,
        "size": _size(shard.bytes),
        "mean image": _size(shard.bytes / max(shard.rows, 1)),
        "SHA-256": shard.sha256[:16],
    }


def _size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _channels(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
