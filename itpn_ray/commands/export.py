"""`itpn-ray export`: weights for other programs: safetensors, torch.export, ONNX."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for, of_run

HELP = "weights for other programs: safetensors, torch.export, ONNX"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.models.weights.config import ExportConfig

    config = arguments.parse(ExportConfig, words, "export")
    from itpn_ray.models.weights.export import export

    console = console_for(verbose)
    report = export(of_run(config, console))
    for remark in report.remarks:
        console.say(f"{config.file}: {remark}")
    console.say(f"{report.path}: {report.size_bytes / 1e6:.1f} MB, {', '.join(report.outputs)}")
    if report.note:
        console.say(f"this is {report.note}")
    if report.difference is not None:
        worst = f"{report.difference:.2e} of values up to {report.scale:.3g}"
        console.say(f"largest difference {worst}")
    return 0
