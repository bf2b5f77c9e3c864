"""`itpn-ray export`: weights for other programs: safetensors, torch.export, ONNX, the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for, of_run
from itpn_ray.formatting import number_of

if TYPE_CHECKING:
    from itpn_ray.models.weights.config import ExportConfig
    from itpn_ray.models.weights.export import ExportReport
    from itpn_ray.terminal.console import Console

HELP = "weights for other programs: safetensors, torch.export, ONNX, Hugging Face"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.models.weights.config import ExportConfig

    export_shown(arguments.parse(ExportConfig, words, "export"), console_for(verbose))
    return 0


def export_shown(config: ExportConfig, console: Console) -> ExportReport:
    """Write the network, and say what was written.

    Raises:
        CheckpointError: weights that cannot be used.
        ConfigError: the format, or a size that does not fit the network.
    """
    from itpn_ray.models.weights.export import export

    report = export(of_run(config, console))
    for remark in report.remarks:
        console.say(f"{config.file}: {remark}")
    console.say(f"{report.path}: {report.size_bytes / 1e6:.1f} MB, {', '.join(report.outputs)}")
    console.say(f"what it is and how to use it: {report.card}")
    if report.note:
        console.say(f"this is {report.note}")
    if report.difference is not None:
        images = number_of(len(config.verify), "image")
        console.say(
            f"outputs compared with the network's on {images}: they differ by "
            f"{report.difference:.2e} at most, in values up to {report.scale:.3g}"
        )
    return report
