"""The card beside an exported file: what it holds, what goes in and comes out, Python that runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.classifier import Classifier
from itpn_ray.models.networks.dense_head import DenseHead
from itpn_ray.models.weights.programs import Program

MOST_CLASSES = 20


def write_card(path: Path, network: Network, program: Program, metadata: Mapping[str, str]) -> Path:
    """Write the card of an exported file beside it, as ``PATH.md``.

    Args:
        path: the file, which is there.
        network: what it was exported from.
        program: how it is fed.
        metadata: of the weights.
    """
    card = path.with_name(f"{path.name}.md")
    card.write_text(card_of(path, network, program, metadata), encoding="utf-8")
    return card


def card_of(
    path: Path, network: Network, program: Program, metadata: Mapping[str, str], title: str = ""
) -> str:
    """The text of a card in Markdown; see `write_card`. Without a title it is the file's name."""
    trunk = network.config.trunk
    count = sum(parameter.numel() for parameter in network.parameters())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows = {
        "Network": f"{network.config.kind}, {trunk.family} trunk of width {trunk.width} and depths "
        f"{trunk.depths}, {count / 1e6:,.2f} M parameters",
        **({"Part": program.note} if program.note and path.suffix != ".safetensors" else {}),
        "Trained for": metadata.get("task", "unknown").replace("_", " "),
        "Input": _input(network, program, path),
        "Output": ", ".join(program.outputs),
        "Classes": _classes(network),
        "Migration r": f"{trunk.acceleration.ratio:g}",
        "File": f"{path.stat().st_size / 1e6:,.1f} MB, SHA-256 `{digest}`",
        "Written by": f"itpn-ray {version('itpn-ray')}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    example = "\n".join(example_lines(path, network, program))
    return f"# {title or path.name}\n\n| | |\n|---|---|\n{table}\n\n```python\n{example}\n```\n"


def example_lines(path: Path, network: Network, program: Program) -> list[str]:
    """The Python that puts ``photo.jpg`` through an exported file, run in the file's folder."""
    if path.suffix == ".safetensors":
        return [
            "from itpn_ray.models import load_model",
            "",
            load_line(path.name),
            *_our_lines(network),
        ]
    onnx = path.suffix == ".onnx"
    load = (
        [f'session = onnxruntime.InferenceSession("{path.name}")']
        if onnx
        else [f'program = torch.export.load("{path.name}").module()']
    )
    return [
        "import numpy as np",
        "import onnxruntime" if onnx else "import torch",
        "from PIL import Image",
        "",
        *load,
        *_image_lines(network, program),
        *(_onnx_lines(program) if onnx else _torch_lines(program)),
        *_answer_lines(network, program),
    ]


def load_line(name: str) -> str:
    """The Python that loads a weight file, or a folder with one."""
    return f'model = load_model("{name}")'


def _our_lines(network: Network) -> list[str]:
    """From the file to an answer, with this package."""
    if isinstance(network, DenseHead):
        lines = ['views, sizes = model.preprocess("photo.jpg")']
        return [*lines, "print({stride: m.shape for stride, m in model.maps(views).items()})"]
    lines = ['image = model.preprocess("photo.jpg")[None]  # (1, 3, S, S)']
    if isinstance(network, Classifier) and network.several_labels:
        names = "model.classes" if network.classes else "range(model.num_classes)"
        scores = "model(image).sigmoid()[0].tolist()"
        return [*lines, f"print([name for name, score in zip({names}, {scores}) if score > 0.5])"]
    if isinstance(network, Classifier) and network.num_classes:
        label = "int(model(image).argmax())"
        return [*lines, f"print(model.classes[{label}])" if network.classes else f"print({label})"]
    return [*lines, "print([stage.shape for stage in model.body.stages(image)])"]


def _image_lines(network: Network, program: Program) -> list[str]:
    """From the file to the program's inputs, without this package."""
    side = program.side
    if isinstance(network, DenseHead):
        lines = [
            'image = Image.open("photo.jpg").convert("RGB")',
            f"image.thumbnail(({side}, {side}), Image.Resampling.BICUBIC)  # fits into the canvas",
            f"pixels = np.zeros(({side}, {side}, 3), np.float32)",
        ]
        values = "(np.asarray(image) / 255 - MEAN) / STD"
        place = [f"pixels[: image.height, : image.width] = {values}"]
        # Only for programs that take sizes too.
        size = ["sizes = np.array([[image.height, image.width]])"] * (len(program.inputs) > 1)
        return [*_constants(network), *lines, *place, *size, *_STACKED]
    fraction = network.crop_fraction
    lines = [
        'image = Image.open("photo.jpg").convert("RGB")',
        f"crop = {fraction:g} * min(image.size)",
        "left, top = (image.width - crop) / 2, (image.height - crop) / 2",
        "box = (left, top, left + crop, top + crop)",
        f"image = image.resize(({side}, {side}), Image.Resampling.BICUBIC, box)",
    ]
    if program.takes_pixels:
        return [*lines, "pixels = np.asarray(image)[None]  # (1, S, S, 3) uint8"]
    return [
        *_constants(network),
        *lines,
        "pixels = (np.asarray(image) / 255 - MEAN) / STD",
        *_STACKED,
    ]


_STACKED = ["images = pixels.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, S, S)"]


def _constants(network: Network) -> list[str]:
    config = network.pretrained_cfg
    return [f"MEAN, STD = np.array({list(config['mean'])}), np.array({list(config['std'])})"]


def _onnx_lines(program: Program) -> list[str]:
    given = ", ".join(f'"{name}": {name}' for name in program.inputs)
    return [f"{', '.join(program.outputs)}{_one(program)} = session.run(None, {{{given}}})"]


def _torch_lines(program: Program) -> list[str]:
    given = ", ".join(f"torch.from_numpy({name}.copy())" for name in program.inputs)
    return [f"{', '.join(program.outputs)}{_one(program)} = program({given})"]


def _one(program: Program) -> str:
    """The comma behind the name of an only output, which makes a tuple of it."""
    # A single output comes in a tuple all the same.
    return "," if len(program.outputs) == 1 else ""


def _answer_lines(network: Network, program: Program) -> list[str]:
    names = list(network.classes)
    if isinstance(network, Classifier) and network.several_labels:
        named = f"{names!r}" if 0 < len(names) <= MOST_CLASSES else f"range({network.num_classes})"
        values = "probabilities[0], 0.5" if program.takes_pixels else "logits[0], 0.0"
        found, limit = values.split(", ")
        return [f"print([name for name, one in zip({named}, {found}) if one > {limit}])"]
    if program.takes_pixels and 0 < len(names) <= MOST_CLASSES:
        return [f"print({names!r}[labels[0]], float(probabilities[0].max()))"]
    if program.outputs == ("logits",) and not isinstance(network, DenseHead):
        if 0 < len(names) <= MOST_CLASSES:
            return [f"print({names!r}[int(logits[0].argmax())])"]
        return ["print(int(logits[0].argmax()))"]
    return [f"print({', '.join(f'{name}.shape' for name in program.outputs)})"]


def _input(network: Network, program: Program, path: Path) -> str:
    side = program.side
    if path.suffix == ".safetensors":
        return "what `model.preprocess` makes of an image"
    if program.takes_pixels:
        return f"pixels (B, {side}, {side}, 3) uint8 RGB: the central crop, resized"
    images = f"images (B, 3, {side}, {side}) float32, of ImageNet's mean and deviation"
    # A string times False is empty, and `or` then takes the other.
    return (
        f"{images}; sizes (B, 2) int64 of their valid parts" * (len(program.inputs) > 1) or images
    )


def _classes(network: Network) -> str:
    names = list(network.classes)
    shown = ", ".join(names[:MOST_CLASSES]) + (", ..." if len(names) > MOST_CLASSES else "")
    shown = " ".join(shown.replace("|", "\\|").split())  # a cell of a table ends at both
    return f"{len(names)}: {shown}" if names else "not named"
