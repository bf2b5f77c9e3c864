"""Settings of the commands on weight files; no torch here, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from itpn_ray.errors import ConfigError

FORMATS = (".safetensors", ".pt2", ".onnx")
HUGGINGFACE = "huggingface"


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Say what a weight file holds: network, size, resolution, acceleration, pyramid, decoder."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A file of this package or of the authors (.safetensors, .pth, .pt, .bin), or a run's
    folder."""
    key: str | None = None
    """Which network of a file that holds several, such as model_ema; None: the command
    says which it takes."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a network for other programs: a classifier, detector or pre-trained trunk."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Weights: a file of this package or of the authors, or a run's folder."""
    key: str | None = None
    """Which network of a file that holds several, such as model_ema; None: the command
    says which it takes."""
    out: str
    """File to write: .safetensors (timm loads it), .pt2 (torch.export) or .onnx."""
    format: str = ""
    """``huggingface``: OUT is a folder as the Hugging Face Hub has it, with config.json,
    model.safetensors and README.md, which timm reads; empty: as the ending of OUT says."""
    image_size: int | None = None
    """Pixels a side; None: as the network was made for, and of a detector's program what holds any
    view of its evaluation."""
    batch: int = 0
    """Images in a batch of the exported program; 0: any number."""
    migration: float | None = None
    """r, the fraction of tokens that migrate; None: as the file says."""
    processing: bool = False
    """Put what is around a classifier into the program (.pt2, .onnx): it takes uint8 RGB crops
    (B, S, S, 3) and gives probabilities and labels."""
    verify: tuple[str, ...] = ()
    """Images to run through the network and its export; how much their outputs differ is printed.
    Without any, nothing is compared."""

    def __post_init__(self) -> None:
        if self.format not in ("", HUGGINGFACE):
            raise ConfigError(
                "format", self.format, "no such format", f"Use {HUGGINGFACE}, or leave it out"
            )
        if self.is_folder and self.batch:
            raise ConfigError(
                "batch", self.batch, "is of programs, and not of weights", "Leave it out"
            )
        if not self.is_folder and not self.out.endswith(FORMATS):
            raise ConfigError(
                "out", self.out, "its ending names no format", f"Use one of {', '.join(FORMATS)}"
            )
        if self.processing and (self.is_folder or self.out.endswith(".safetensors")):
            raise ConfigError(
                "processing", True, "goes into a program, and not into weights", "Use .onnx or .pt2"
            )
        if self.batch < 0:
            raise ConfigError("batch", self.batch, "is negative", "Use 0 for any number")

    @property
    def is_folder(self) -> bool:
        """Whether a folder is written and not a file."""
        return self.format == HUGGINGFACE


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """Draw what a query token attends to, or which tokens migrate where, over an image."""

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Weights: a file of this package or of the authors, or a run's folder."""
    key: str | None = None
    """Which network of a file that holds several, such as model_ema; None: the command
    says which it takes."""
    image: str
    """The image to look at."""
    out: str
    """Image file to write, such as map.png."""
    show: str = "attention"
    """"attention" (paper Fig. 6) or "migration"."""
    query: tuple[int, int] | None = None
    """Row and column of the query token, counted in patches from 0; None: the middle."""
    block: int = -1
    """Block of the last stage to look into, from 0; negative counts from the end."""
    migration: float = 0.4
    """r for the migration map, where the file says none."""
    image_size: int | None = None
    """Pixels a side; None: as the network was made for."""

    def __post_init__(self) -> None:
        if self.show not in ("attention", "migration"):
            raise ConfigError("show", self.show, "no such map", 'Use "attention" or "migration"')
