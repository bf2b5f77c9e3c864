"""What preparation costs beside the mere decoding and encoding, and what it needs and survives.

    python benchmarks/prepare.py                            # images drawn by this project
    python benchmarks/prepare.py --images /data/imagenet  # your own JPEGs for the speed
    python benchmarks/prepare.py --quick                    # three minutes, writes under out/

1. Speed: CPU time an image without workers against the limit (read, decode, shrink, encode and
   nothing else), in turn, medians; then how much more two Ray workers do than one, beside what this
   machine gains at most: two processes that work at the limit.
2. Scale: many small images with 2 workers: peak memory of the driver and of the largest worker.
3. Kill: the same again, killed at a random point and repeated: the digests must be the same.
4. Boxes: an annotation file like that of Objects365, two million boxes, over the small images:
   peak memory again.

Writes prepare.json and prepare.md. Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.lib.interleave import machine, write_json
from benchmarks.lib.prepare_children import lines, start
from benchmarks.lib.two_workers import name_of, take_turns
from itpn_ray.data.prepare.config import SynthesizeConfig
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.synthetic.layouts import generate

LEAST_OF_LIMIT = 0.8
LEAST_SPEEDUP = 1.9
LEAST_IMAGES = 1024
"""In shards of 256: fewer have no steady stretch between the first shard and the last."""
SHARDS = 96
"""Of the measurement with two workers: each image counts several times to make so many."""
CASES = {"keep the bytes": 0, "shrink to 256": 256}


def main() -> int:
    """Measure, and write the tables."""
    options = parse()
    folder = options.data
    images = options.images or generate(
        SynthesizeConfig(out=str(folder / "large"), train=options.large, val=64, side=480)
    )
    count = sum(1 for _ in images.rglob("*.[jJ][pP]*[gG]"))
    if count < LEAST_IMAGES:
        raise SystemExit(f"{images} holds {count} JPEGs; give at least {LEAST_IMAGES}")
    speed = {name: measure_speed(images, folder, side, options) for name, side in CASES.items()}
    many = repeat(images, folder / "many", options.shard_rows * SHARDS)
    scaling = measure_scaling(many, folder, options)
    heap = generate(
        SynthesizeConfig(out=str(folder / "small"), train=options.small, val=options.small // 10)
    )
    memory = measure_memory(heap, folder / "whole")
    resume = measure_resume(heap, folder, options.seed)
    boxes = measure_memory(write_boxes(heap, folder, options.boxes), folder / "boxes-out")
    found = {"speed": speed, "scaling": scaling}
    found |= {"memory": memory, "resume": resume, "boxes": boxes}
    bars = check(found)
    table = markdown(found, bars)
    print(table)
    kind = options.images.name if options.images else "drawn"  # a path says where, not what
    setting = {"images": kind, "large": options.large, "small": options.small}
    write_json(
        options.out / "prepare.json",
        {"machine": machine("cpu"), "cpus": os.cpu_count(), "setting": setting, **found},
    )
    (options.out / "prepare.md").write_text(table)
    return 0 if all(met for _, met in bars) else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Preparation beside its limit")
    parser.add_argument("--images", type=Path, help="folder in ImageNet layout, for the speed")
    parser.add_argument("--data", type=Path, default=Path("out/benchmarks/prepare"))
    parser.add_argument("--small", type=int, help="small images for memory and resume")
    parser.add_argument("--repeats", type=int, help="rounds; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="decides when to kill")
    parser.add_argument("--quick", action="store_true", help="a small run; writes under out/")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    options.large = 1200 if options.quick else 4000
    options.small = options.small or (5000 if options.quick else 100_000)
    options.boxes = 100_000 if options.quick else 2_000_000
    options.shard_rows, options.turn_s = (128, 2.0) if options.quick else (512, 10.0)
    options.repeats = options.repeats or (1 if options.quick else 5)
    options.data = (options.data / str(options.small)).absolute()
    options.out = options.out or Path("out/benchmarks" if options.quick else "benchmarks/results")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def measure_speed(
    images: Path, folder: Path, side: int, options: argparse.Namespace
) -> dict[str, float]:
    """Median CPU milliseconds an image of the limit and of ours, in turn."""
    rounds: dict[str, list[float]] = {"limit": [], "ours": []}
    for _ in range(options.repeats):
        for mode, found in rounds.items():
            out = fresh(folder / "speed")
            told = [*lines(start(mode, images, out, 0, side))]
            found.append(told[-1]["cpu_ms"] if mode == "limit" else steady(told, "cpu_s") * 1000)
    medians = {f"{mode}_cpu_ms": statistics.median(found) for mode, found in rounds.items()}
    return {**medians, "of_limit": medians["limit_cpu_ms"] / medians["ours_cpu_ms"]}


def steady(told: list[dict[str, float]], what: str) -> float:
    """Seconds an image, from the first finished shard to the last but one.

    A shard is told of when the next one is written: the one written but untold at the first moment
    does not count.
    """
    first, last = told[0], told[-1]
    return (last[what] - first[what]) / (last["images"] - 2 * first["images"])


def repeat(images: Path, folder: Path, count: int) -> Path:
    """A folder with ``count`` links to images, each several times, by class."""
    fresh(folder)
    paths = itertools.cycle(sorted(images.absolute().rglob("*.[jJ][pP]*[gG]")))
    for number, path in enumerate(itertools.islice(paths, count)):
        link = folder / path.parent.name / f"{number:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


def measure_scaling(many: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """How much more two workers do than one, and two processes at the limit: medians of the turns.

    One preparation with two workers runs all the time, and every other turn one of them is stopped:
    the turns last seconds, so a machine that is slow for some minutes is slow in both kinds.
    """
    gains: dict[str, list[float]] = {"speedup": [], "limit_speedup": []}
    for _ in range(options.repeats):
        ours = [start("ours", many, fresh(folder / "scaling"), 2, 256, options.shard_rows)]
        gains["speedup"] += take_turns(ours, options.turn_s)
        limits = [start("limit", many, folder, 0, 256) for _ in range(2)]
        gains["limit_speedup"] += take_turns(limits, options.turn_s)
        print(f"two processes, {len(gains['speedup'])} turns measured", flush=True)
    medians = {name: statistics.median(each) for name, each in gains.items()}
    return {**medians, "turns": {name: [round(g, 3) for g in each] for name, each in gains.items()}}


def measure_memory(heap: Path, out: Path) -> dict[str, float]:
    """Peak resident memory of the driver and of the largest other process, in MB."""
    child = start("ours", heap, fresh(out), 2, 0)
    family = psutil.Process(child.pid)
    peaks = {"driver_mb": 0.0, "worker_mb": 0.0, "seconds": 0.0, "images": 0.0}
    for line in lines(child):
        peaks |= {name: line[name] for name in ("seconds", "images") if name in line}
        if child.poll() is None:
            peaks["driver_mb"] = max(peaks["driver_mb"], resident(family))
            others = [
                resident(p)
                for p in family.children(recursive=True)
                if name_of(p).startswith("ray::")
            ]
            peaks["worker_mb"] = max([peaks["worker_mb"], *others])
    return peaks


def resident(process: psutil.Process) -> float:
    """Memory of a process in MB; its pages of mapped files and of Ray's store do not count."""
    try:
        found = process.memory_info()
    except psutil.NoSuchProcess:
        return 0.0
    return (found.rss - found.shared) / 1e6


def measure_resume(heap: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Kill a preparation at a random point, repeat it, and compare with the whole one."""
    out = fresh(folder / "killed")
    whole = read_manifest(str(folder / "whole"))
    shards = sum(len(split.shards) for split in whole.splits.values())
    at = random.Random(seed).randrange(1, shards)
    child = start("ours", heap, out, 2, 0)
    for done, _ in enumerate(lines(child), 1):
        if done == at:
            os.killpg(child.pid, signal.SIGKILL)
            break
    child.wait()
    records = [path.stem.split("-") for path in out.glob("_work/done/*.json")]
    shards_there = [out / split / f"shard-{index}.arrow" for split, index in records]
    kept = {path: path.stat().st_mtime_ns for path in shards_there}
    list(lines(start("ours", heap, out, 2, 0)))
    again = sum(path.stat().st_mtime_ns != written for path, written in kept.items())
    return {
        "shards": shards,
        "killed_after": at,
        "kept": len(kept),
        "kept_but_made_again": again,
        "same_digests": read_manifest(str(out)).splits == whole.splits,
    }


def write_boxes(heap: Path, folder: Path, count: int) -> Path:
    """A data set in the form of Objects365 over images that are there; returns its folder."""
    root = fresh(folder / "boxes")
    (root / "annotations").mkdir(parents=True)
    (root / "train").symlink_to(heap / "train")
    draw = random.Random(0)
    images = []
    for number, path in enumerate(sorted((heap / "train").glob("*/*.jpg"))):
        with Image.open(path) as image:
            width, height = image.size
        name = f"images/v1/{path.parent.name}/{path.name}"
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    head = {"categories": [{"id": n + 1, "name": str(n)} for n in range(365)], "images": images}
    with (root / "annotations/zhiyuan_objv2_train.json").open("w") as out:
        out.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number in range(count):
            corner = [draw.uniform(0, 60) for _ in range(4)]
            box = {"id": number, "image_id": draw.randrange(len(images)), "bbox": corner}
            box |= {"category_id": draw.randrange(365) + 1, "iscrowd": 0, "isfake": 0}
            out.write((", " if number else "") + json.dumps(box))
        out.write("]}")
    return root


def fresh(folder: Path) -> Path:
    """The folder's name, with nothing there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def check(found: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each bar in words with the figure found, and whether it is met."""
    bars = [
        (
            f"{name}: {case['of_limit']:.0%} of the limit (bar {LEAST_OF_LIMIT:.0%})",
            case["of_limit"] >= LEAST_OF_LIMIT,
        )
        for name, case in found["speed"].items()
    ]
    speedup = found["scaling"]["speedup"]
    allowed = found["scaling"]["limit_speedup"]
    told = f"two workers {speedup:.2f}x one (bar {LEAST_SPEEDUP}x; this machine {allowed:.2f}x)"
    bars.append((told, speedup >= LEAST_SPEEDUP))
    bars.append(("killed and repeated: the same digests", found["resume"]["same_digests"]))
    return bars


def markdown(found: dict[str, Any], bars: list[tuple[str, bool]]) -> str:
    """The figures as tables."""
    rows = ["| | limit, CPU ms | ours, CPU ms | of the limit |", "|---|---|---|---|"]
    for name, case in found["speed"].items():
        rows.append(
            f"| {name} | {case['limit_cpu_ms']:.2f} | {case['ours_cpu_ms']:.2f} "
            f"| {case['of_limit']:.0%} |"
        )
    for part in ("scaling", "memory", "resume", "boxes"):
        figures = {k: v for k, v in found[part].items() if not isinstance(v, dict)}
        rows += ["", f"{part}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items())]
    rows += ["", *(f"- {'met' if met else 'MISSED'}: {words}" for words, met in bars)]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
