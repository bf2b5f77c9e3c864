"""What an image costs on its way to the network: this project's loader beside others.

Each pipeline reads the same JPEGs (longer side at most 512 px) in its own format and gives batches
of random 224-pixel crops as uint8, in a process of its own. All stay up and take turns, an epoch
each; the median of the rounds counts. The steady figure is CPU time an image.

    python benchmarks/input.py                                # images drawn by this project
    python benchmarks/input.py --images /data/imagenet      # JPEGs in ImageNet layout, repeated
    python benchmarks/input.py --quick                        # four minutes, writes under out/

Other libraries: ``pip install -e .[bench]``, then ``pip install --no-deps mosaicml-streaming``
(it asks for older packages than this project's); those that are missing are left out and named.
Writes input.json and input.md. Exit code 1 if a bar of `check` is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.lib.input_children import Child
from benchmarks.lib.input_formats import write_formats
from benchmarks.lib.input_pipelines import PIPELINES
from benchmarks.lib.interleave import machine, write_json

OURS = "ours, Ray Data"
PLAIN = "plain threads"
TIMM = "DataLoader as timm"
Figures = dict[str, dict[str, float]]
Rounds = dict[str, list[dict[str, float]]]
COLUMNS = {
    "cpu_ms": ("CPU ms an image", "{:.3f}"),
    "per_core": ("images/s a core", "{:.0f}"),
    "images_per_s": ("images/s", "{:.0f}"),
    "first_batch_s": ("first batch, s", "{:.1f}"),
    "next_epoch_s": ("first batch of the next epoch, s", "{:.2f}"),
    "memory_mb": ("memory, MB", "{:.0f}"),
}


def main() -> int:
    """Write the data, measure in turn, write the table."""
    options = parse()
    names, missing = available(options.pipelines)
    formats = sorted({PIPELINES[name].format for name in names})
    write_formats(options.data, options.images, options.count, formats)
    starts, rounds = measure(names, options)
    medians = {name: starts[name] | median(found) for name, found in rounds.items()}
    bars = check(medians, rounds)
    table = markdown(medians, bars, missing)
    print(table)
    kind = options.images.name if options.images else "drawn"  # a path says where, not what
    setting = {"images": kind, "count": options.count, "batch": options.batch}
    setting |= {"workers": options.workers, "rounds": options.repeats}
    write_json(
        options.out / "input.json",
        {"machine": machine("cpu"), "setting": setting, "medians": medians, "rounds": rounds},
    )
    (options.out / "input.md").write_text(table)
    return 0 if all(met for _, met in bars) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Input pipelines side by side")
    parser.add_argument("--images", type=Path, help="folder of JPEGs; drawn ones if not given")
    parser.add_argument("--data", type=Path, help="where the formats are written, kept there")
    parser.add_argument("--count", type=int, help="images an epoch")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="or threads")
    parser.add_argument("--repeats", type=int, help="rounds; the median counts")
    parser.add_argument("--pipelines", nargs="*", default=list(PIPELINES), choices=list(PIPELINES))
    parser.add_argument("--quick", action="store_true", help="a small run; writes under out/")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    options.count = options.count or (6144 if options.quick else 8192)
    options.repeats = options.repeats or (1 if options.quick else 10)
    kind = "drawn" if options.images is None else options.images.name
    options.data = options.data or Path("out/benchmarks/input") / kind
    options.out = options.out or Path("out/benchmarks" if options.quick else "benchmarks/results")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def available(wanted: list[str]) -> tuple[list[str], list[str]]:
    """Pipelines whose library is installed, and those whose is not."""
    found = {
        name: not PIPELINES[name].needs
        or importlib.util.find_spec(PIPELINES[name].needs) is not None
        for name in wanted
    }
    return [n for n, there in found.items() if there], [
        n for n, there in found.items() if not there
    ]


def measure(names: list[str], options: argparse.Namespace) -> tuple[Figures, Rounds]:
    """The figures of each pipeline's start, and of its epochs, taken in turn."""
    numbers = [options.batch, options.workers, options.count // 4, options.count // 2]
    rounds: Rounds = {name: [] for name in names}
    with ExitStack() as children:
        up, starts = {}, {}
        for name in names:
            up[name] = Child(
                name, f"{options.data}/{PIPELINES[name].format}-{options.count}", *numbers
            )
            children.callback(up[name].close)
            starts[name] = up[name].figures()
            print(f"{name}: first batch after {starts[name]['first_batch_s']:.1f} s", flush=True)
        for turn in range(options.repeats):
            for name in names[:: -1 if turn % 2 else 1]:  # a steady drift cancels
                up[name].begin()
                rounds[name].append(up[name].figures())
                print(f"round {turn + 1}: {name}: {rounds[name][-1]['cpu_ms']:.3f} ms", flush=True)
    return starts, rounds


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure, and images/s a core from the CPU time."""
    found = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return {**found, "per_core": 1000 / found["cpu_ms"]}


def check(medians: Figures, rounds: Rounds) -> list[tuple[str, bool]]:
    """Each bar in words with the figure found, and whether it is met.

    A ratio is the median of the rounds' ratios: what slows the whole machine for some minutes is
    in both pipelines of a round.
    """
    if OURS not in medians:
        return []
    ours = medians[OURS]
    peers = [n for n in medians if n != PLAIN and not n.startswith("ours")]
    bars = []
    for names, most, words in (
        ([TIMM], 0.5, "of the DataLoader as timm uses it"),
        (peers, 0.85, "of the best other pipeline"),
        ([PLAIN], 1.05, "of plain threads"),
    ):
        there = [name for name in names if name in medians]
        if there:
            cheapest = min(there, key=lambda name: medians[name]["cpu_ms"])
            pairs = zip(rounds[OURS], rounds[cheapest], strict=True)
            ratio = statistics.median(our["cpu_ms"] / other["cpu_ms"] for our, other in pairs)
            bars.append((f"CPU time {ratio:.3f} {words} (at most {most})", ratio <= most))
    begin, memory = ours["next_epoch_s"], ours["memory_mb"]
    bars.append((f"first batch of the next epoch after {begin:.2f} s (under 1)", begin < 1))
    bars.append((f"memory {memory:.0f} MB (under 2000)", memory < 2000))
    return bars


def markdown(medians: Figures, bars: list[tuple[str, bool]], missing: list[str]) -> str:
    """The table, fastest first, and the bars."""
    ranked = sorted(medians, key=lambda name: medians[name]["cpu_ms"])
    lines = ["| Pipeline | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for name in ranked:
        cells = [form.format(medians[name][key]) for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {'met' if met else 'MISSED'}: {words}" for words, met in bars)]
    lines += [f"- not installed: {name}" for name in missing]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
