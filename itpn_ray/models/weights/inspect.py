"""What a weight file holds, without running it."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray.models.config import (
    PATCH,
    SIZES,
    AutoencoderConfig,
    ClassifierConfig,
    DenseConfig,
    DenseHeadConfig,
    DistillerConfig,
    NetworkConfig,
    TrunkConfig,
)
from itpn_ray.models.networks.cost import parameters
from itpn_ray.models.networks.dense_head import DenseHead
from itpn_ray.models.weights.config import InspectConfig
from itpn_ray.models.weights.files import LoadReport, build_network
from itpn_ray.models.weights.read import read_weights

_NAMES = {"classes": "class names"}
"""Metadata that would have the name of another row -> what it is called."""
_FAMILIES = {"fast_itpn": "Fast-iTPN", "itpn": "iTPN"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds."""

    file: str
    written_by: str
    """"itpn_ray" or "authors"."""
    config: NetworkConfig
    """The network, complete."""
    size: str
    """Its name in the size table, or "custom"."""
    parameters: int
    """Learned numbers."""
    crop_fraction: float | None
    """Of the images' shorter side that an evaluation sees; None: whole images."""
    extra: dict[str, str]
    """Further metadata, such as class names."""
    notes: tuple[str, ...]
    """Tensors that are missing or without a place, one line a kind."""

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each fact, for a table."""
        trunk = self.config.trunk
        rows = [
            ("file", self.file),
            ("written by", self.written_by),
            ("network", f"{_FAMILIES[trunk.family]}, {self.config.kind}"),
            ("size", f"{self.size} ({self.parameters / 1e6:.2f} M parameters)"),
            ("width, heads", f"{trunk.width}, {trunk.heads}"),
            ("blocks", " + ".join(map(str, trunk.depths))),
            ("resolution", f"{trunk.image_size} px ({trunk.grid} x {trunk.grid} patches)"),
            ("evaluation crop", _crop(self.crop_fraction)),
            ("relative position", _yes(trunk.relative_position)),
            ("layer scale", _yes(trunk.layer_scale is not None)),
            ("acceleration", _acceleration(trunk)),
            *_behind_the_trunk(self.config),
        ]
        rows.extend((_NAMES.get(name, name), text) for name, text in self.extra.items())
        rows.extend(("note", note) for note in self.notes)
        return rows


def inspect_file(config: InspectConfig) -> Contents:
    """What a weight file, or the one of a run's folder, holds.

    Raises:
        CheckpointError: unreadable, or no network of this package or of the authors.
    """
    weights = read_weights(config.file, key=config.key)
    # What is missing is shown, not refused.
    network, report = build_network(weights, partial=True)
    return Contents(
        file=weights.subject,
        written_by=weights.written_by,
        config=network.config,
        size=size_name(network.config.trunk),
        parameters=parameters(network),
        crop_fraction=None if isinstance(network, DenseHead) else network.crop_fraction,
        extra={k: text for k, text in weights.metadata.items() if k != "crop_fraction"},
        notes=(*weights.remarks, *_notes(report)),
    )


def size_name(trunk: TrunkConfig) -> str:
    """The published size with this family, width and depths, or "custom"."""
    for name, size in SIZES.items():
        known = size.trunk
        if (known.family, known.width, known.depths) == (trunk.family, trunk.width, trunk.depths):
            return name
    return "custom"


def _notes(report: LoadReport) -> tuple[str, ...]:
    kinds = (("missing", report.missing), ("without a place", report.unexpected))
    return tuple(f"{len(names)} {what}: {', '.join(names)}" for what, names in kinds if names)


def _behind_the_trunk(config: NetworkConfig) -> list[tuple[str, str]]:
    if isinstance(config, ClassifierConfig):
        pool = "norm, then mean" if config.norm_before_pool else "mean, then norm"
        return [("classes", str(config.num_classes)), ("pooling", pool), ("pyramid", "no")]
    pyramid = f"width {config.pyramid.width}, depth {config.pyramid.depth}"
    rows = [("pyramid", pyramid)]
    if isinstance(config, AutoencoderConfig):
        shape = f"width {config.decoder_width}, {config.decoder_depth} blocks"
        rows.append(("decoder", f"{shape}, {config.decoder_heads} heads"))
        rows.append(("predicts", f"{PATCH} x {PATCH} normalised pixels a patch"))
    elif isinstance(config, DistillerConfig):
        rows.append(("decoder", "no"))
        rows.append(("predicts", f"a teacher of width {config.teacher_dim}"))
    elif isinstance(config, DenseHeadConfig):
        rows.append(("classes", str(config.num_classes)))
    elif isinstance(config, DenseConfig):
        rows.append(("decoder", "no"))
        rows.append(("maps", f"{config.levels}, from stride 4"))
    return rows


def _acceleration(trunk: TrunkConfig) -> str:
    setting = trunk.acceleration
    if not setting.active:
        return "none"
    parts = [f"{setting.reduction}, r = {setting.ratio:g}"] if setting.ratio else []
    if setting.window:
        parts.append(f"windows of {setting.window}")
    if setting.gathering:
        parts.append("gathering tokens")
    if setting.relative_position != "none":
        parts.append(f"relative position in {setting.relative_position}")
    return ", ".join(parts)


def _crop(fraction: float | None) -> str:
    return "whole images" if fraction is None else f"{fraction:g} of the shorter side"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
