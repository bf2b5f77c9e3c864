"""What token migration and token gathering gain, beside what their multiply-adds promise.

Dense maps of Fast-iTPN-B and -T at 512 and 1024 px; all variants of a network and size are timed in
turn in one run. Writes acceleration-<device>-<type>.json, .md and .png.

    python benchmarks/acceleration.py                                     # this machine
    python benchmarks/acceleration.py --device cuda --compile
    python benchmarks/acceleration.py --quick                             # a minute on a laptop
    python benchmarks/acceleration.py --docs                              # also into docs/

Paper: Fig. 5 and section 5.4.1 (there on a whole detector). Exit code 1 if a bar of BARS is missed.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.lib.interleave import (
    DTYPES,
    interleave,
    machine,
    new_parser,
    parse,
    suffix,
    write_json,
)
from itpn_ray.models import Acceleration, create_dense
from itpn_ray.models.networks.cost import multiply_adds

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 16
TOGETHER = {"reduction": "migration", "ratio": 0.3, "window": WINDOW, "gathering": True}
VARIANTS = {
    "plain": Acceleration(),
    "windows": Acceleration(window=WINDOW),
    "windows + gathering": Acceleration(window=WINDOW, gathering=True),
    **{
        f"migration r = {ratio}": Acceleration(reduction="migration", ratio=ratio)
        for ratio in (0.1, 0.2, 0.3, 0.4)
    },
    "all together, r = 0.3": Acceleration(**TOGETHER),
    "all together + HRPE": Acceleration(**TOGETHER, relative_position="windows"),
}
PAPER = {  # section 5.4.1, times the speed of the plain network, whole detector on COCO
    "windows": 1.9,
    "windows + gathering": 1.85,
    "migration r = 0.1": 1.15,
    "migration r = 0.2": 1.20,
    "migration r = 0.3": 1.23,
    "migration r = 0.4": 1.27,
    "all together + HRPE": 1.7,
}
BARS = "B at 1024 px: all together at least 1.7x, each variant at least 90 % of its promise"
PIXELS = {"cpu": 0, "cuda": 8 * 1024**2}  # of a batch, unless one image has more


def measure(name: str, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One line a variant: seconds an image, multiply-adds, both as ratios to plain."""
    device, batch = (
        torch.device(options.device),
        options.batch or max(1, PIXELS[options.device] // size**2),
    )
    images = torch.randn(batch, 3, size, size, device=device, dtype=DTYPES[options.dtype])
    cases, work = {}, {}
    torch.compiler.reset()
    chosen = {name: VARIANTS[name] for name in VARIANTS if wanted(name, options)}
    for variant, acceleration in chosen.items():
        torch.manual_seed(0)
        net = create_dense(name, acceleration=acceleration)
        work[variant] = multiply_adds(net, size)
        net = net.to(device, DTYPES[options.dtype]).eval()
        run: nn.Module = torch.compile(net, dynamic=False) if options.compile else net
        cases[variant] = partial(run, images)
    with torch.inference_mode():
        least = 0.2 if options.device == "cuda" else 0.0
        seconds = interleave(cases, device, repeats=options.repeats, least=least)
    lines = []
    for variant in chosen:
        faster = seconds["plain"] / seconds[variant]
        promise = work["plain"] / work[variant]
        lines.append(
            {
                "network": name,
                "pixels": size,
                "batch": batch,
                "variant": variant,
                "images_per_s": batch / seconds[variant],
                "multiply_adds": work[variant],
                "speed_up": faster,
                "promise": promise,
                "reached": faster / promise,
            }
        )
        print(
            f"{name} {size} px  {variant:22s} {batch / seconds[variant]:8.2f} images/s  "
            f"{faster:5.2f}x of {promise:5.2f}x  {faster / promise:6.1%}",
            flush=True,
        )
    return lines


def wanted(variant: str, options: argparse.Namespace) -> bool:
    """Whether a variant is asked for; plain always is."""
    return variant == "plain" or any(part in variant for part in options.variants)


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| network | px | variant | images/s | G multiply-adds | speed-up | promised | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rows.append(
            f"| {line['network']} | {line['pixels']} | {line['variant']} "
            f"| {line['images_per_s']:.2f} | {line['multiply_adds'] / 1e9:.1f} "
            f"| {line['speed_up']:.2f}x | {line['promise']:.2f}x | {line['reached']:.0%} |"
        )
    return "\n".join(rows) + "\n"


def plot(lines: list[dict[str, Any]], title: str, path: Path) -> None:
    """Speed-up by variant, one panel a network and size, beside promise and paper (Fig. 5)."""
    from matplotlib.figure import Figure

    groups = sorted({(line["network"], line["pixels"]) for line in lines})
    figure = Figure(figsize=(4.6 * len(groups), 4.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    found = {line["variant"] for line in lines}
    names = [variant for variant in VARIANTS if variant in found and variant != "plain"]
    for panel, (name, size) in zip(panels, groups, strict=True):
        by = {
            line["variant"]: line
            for line in lines
            if (line["network"], line["pixels"]) == (name, size)
        }
        heights = [100 * (by[variant]["speed_up"] - 1) for variant in names]
        promises = [100 * (by[variant]["promise"] - 1) for variant in names]
        panel.bar(names, heights, color="#2f6f9f", label="measured")
        panel.plot(names, promises, "_", ms=18, mew=2, color="#b5482f", label="multiply-adds")
        if size == 1024 and name.endswith("base"):
            paper = [100 * (PAPER[variant] - 1) if variant in PAPER else None for variant in names]
            panel.plot(names, paper, "o", color="#8a8f98", label="paper, whole detector")
        panel.set_title(f"{name}, {size} px")
        panel.set_xticks(range(len(names)), names, rotation=45, ha="right")
        panel.spines[["top", "right"]].set_visible(False)
        panel.axhline(0, color="black", lw=0.8)
    panels[0].set_ylabel("speed over the plain network, %")
    marks = max((panel.get_legend_handles_labels() for panel in panels), key=lambda m: len(m[0]))
    panels[0].legend(*marks, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Software": None})


def missed(lines: list[dict[str, Any]]) -> list[str]:
    """The lines that miss a bar."""
    out = []
    for line in lines:
        if (line["network"], line["pixels"]) != ("fast_itpn_base", 1024):
            continue
        if line["variant"] == "all together, r = 0.3" and line["speed_up"] < 1.7:
            out.append(f"{line['variant']}: {line['speed_up']:.2f}x, below 1.7x")
        if line["reached"] < 0.9:
            out.append(f"{line['variant']}: {line['reached']:.1%} of its promise, below 90 %")
    return out


def into_docs(stem: Path) -> None:
    """Put the table between its marks in docs/benchmarks/acceleration.md, the plot in images/."""
    page, images = ROOT / "docs" / "benchmarks" / "acceleration.md", ROOT / "docs" / "images"
    before, rest = page.read_text().split(f"<!-- {stem.name} -->\n", 1)
    after = rest.split("<!-- end -->", 1)[1]
    image = f"![Speed-up by variant](../images/{stem.name}.png)\n"
    middle = f"<!-- {stem.name} -->\n{stem.with_suffix('.md').read_text()}\n{image}<!-- end -->"
    page.write_text(before + middle + after)
    (images / f"{stem.name}.png").write_bytes(stem.with_suffix(".png").read_bytes())


def main() -> int:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", help="names in the table of sizes")
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels a side")
    parser.add_argument("--variants", nargs="+", default=[""], help="parts of variants' names")
    parser.add_argument("--batch", type=int, help="images a batch")
    parser.add_argument(
        "--docs", action="store_true", help="also write docs/benchmarks/acceleration.md"
    )
    options = parse(parser)
    networks = ["fast_itpn_tiny"] if options.quick else ["fast_itpn_base", "fast_itpn_tiny"]
    sizes = [512] if options.quick else [512, 1024]
    where = machine(options.device)
    kind = options.dtype + (", compiled" if options.compile else "")
    title = f"{where['device']}, {kind}, torch {where['torch']}"
    stem = options.out / f"acceleration-{suffix(options)}"
    lines: list[dict[str, Any]] = []
    for name in options.networks or networks:
        for size in options.sizes or sizes:
            lines += measure(name, size, options)
            # After each group, so that a run that is cut short leaves what it has.
            write_json(stem.with_suffix(".json"), {"machine": where, "dtype": kind, "lines": lines})
            stem.with_suffix(".md").write_text(f"{title}\n\n{table(lines)}")
    plot(lines, title, stem.with_suffix(".png"))
    print(f"written to {stem}.json, .md and .png")
    if options.docs:
        into_docs(stem)
    short = missed(lines)
    for line in short:
        print(f"missed ({BARS}): {line}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
