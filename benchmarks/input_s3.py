"""The loader on shards in S3: with an empty and with a filled cache, by 1, 2 and 4 workers.

The server is moto on this machine, in a process of its own, and shares the cores with the workers;
so the figures show that fetching overlaps with decoding, not what a real store can give.

    python benchmarks/input_s3.py                             # images drawn by this project
    python benchmarks/input_s3.py --images /data/imagenet   # JPEGs in ImageNet layout, repeated
    python benchmarks/input_s3.py --quick                     # three minutes, writes under out/

Needs moto: ``pip install itpn-ray[dev]``. Writes input_s3.json and input_s3.md.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.lib.input_children import Child
from benchmarks.lib.input_formats import write_formats
from benchmarks.lib.interleave import machine, write_json
from itpn_ray.storage import open_store

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_REGION": "us-east-1",
}
URI = "s3://benchmark/prepared"
WORKERS = (1, 2, 4)


def main() -> int:
    """Upload, measure in turn, write the table."""
    options = parse()
    write_formats(options.data, options.images, options.count, ["arrow"])
    local = options.data / f"arrow-{options.count}"
    with server():
        upload(local)
        rounds = [measure_round(local, options) for _ in range(options.repeats)]
    names = list(rounds[0])
    medians = {
        name: {
            key: statistics.median(each[name][key] for each in rounds) for key in rounds[0][name]
        }
        for name in names
    }
    table = markdown(medians)
    print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    setting = {"count": options.count, "batch": options.batch, "rounds": options.repeats}
    write_json(
        options.out / "input_s3.json",
        {"machine": machine("cpu"), "setting": setting, "medians": medians},
    )
    (options.out / "input_s3.md").write_text(table)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The loader on shards in S3")
    parser.add_argument("--images", type=Path, help="folder of JPEGs; drawn ones if not given")
    parser.add_argument("--data", type=Path, help="where the shards are written, kept there")
    parser.add_argument("--count", type=int, help="images an epoch")
    parser.add_argument("--batch", type=int, default=128, help="images a worker")
    parser.add_argument("--repeats", type=int, help="rounds; the median counts")
    parser.add_argument("--quick", action="store_true", help="a small run; writes under out/")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    options.count = options.count or (6144 if options.quick else 8192)
    options.repeats = options.repeats or (1 if options.quick else 3)
    kind = "drawn" if options.images is None else options.images.name
    options.data = options.data or Path("out/benchmarks/input") / kind
    options.out = options.out or Path("out/benchmarks" if options.quick else "benchmarks/results")
    return options


@contextmanager
def server() -> Iterator[None]:
    """An S3 server in a process of its own, and the environment that leads to it."""
    code = (
        "import time; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0);"
        "s.start(); print(s.get_host_and_port()[1], flush=True); time.sleep(1e6)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = next(line for line in process.stdout if re.fullmatch(r"\d+\n", line))
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{int(port)}")
        yield
    finally:
        process.kill()
        process.wait()


def upload(folder: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    client.create_bucket(Bucket="benchmark")
    for path in folder.rglob("*"):
        if path.is_file():
            open_store(URI).put_file(path, str(path.relative_to(folder)))


def measure_round(local: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each number of workers on local shards, with an empty and with a filled cache."""
    found = {}
    for world in WORKERS:
        with TemporaryDirectory() as cache:
            for kind, uri in (("local", str(local)), ("cold cache", URI), ("warm cache", URI)):
                found[f"{kind}, {world} workers"] = measure(uri, world, cache, options)
                print(f"{kind}, {world} workers", flush=True)
    return found


def measure(uri: str, world: int, cache: str, options: argparse.Namespace) -> dict[str, float]:
    """Workers side by side, one decoding thread for each core in all."""
    threads = max(1, (os.cpu_count() or 1) // world)
    share = options.count // world
    # What is read ahead at the end of the stretch must have been there to read.
    numbers = [options.batch, threads, share // 4, share // 4]
    with ExitStack() as children:
        workers = [
            Child("ours, threads", uri, *numbers, rank, world, cache) for rank in range(world)
        ]
        for worker in workers:
            children.callback(worker.close)
        first = [worker.figures() for worker in workers]
        for worker in workers:
            worker.begin()
        second = [worker.figures() for worker in workers]
    return {
        "images_per_s": sum(figures["first_epoch_images_per_s"] for figures in first),
        "first_batch_s": max(figures["first_batch_s"] for figures in first),
        "next_epoch_s": max(figures["next_epoch_s"] for figures in second),
        "cpu_ms": statistics.mean(figures["cpu_ms"] for figures in second),
    }


def markdown(medians: dict[str, dict[str, float]]) -> str:
    lines = [
        "| Shards | images/s, 1st epoch | 1st batch, s | of the 2nd epoch, s | CPU ms an image |",
        "|---|---|---|---|---|",
    ]
    for name, figures in medians.items():
        lines.append(
            f"| {name} | {figures['images_per_s']:.0f} | {figures['first_batch_s']:.2f} | "
            f"{figures['next_epoch_s']:.2f} | {figures['cpu_ms']:.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
