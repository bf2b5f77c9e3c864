"""One preparation, or the limit of it, in a process of its own; prints JSON lines.

    python -m benchmarks.lib.prepare_child MODE SOURCE OUT WORKERS MAX_SIDE SHARD_ROWS

Modes: ``ours`` prepares and prints a line {seconds, images, cpu_s} a shard; ``limit`` does
nothing but read, decode, shrink and encode the same images, and prints {cpu_ms, seconds}, both a
image.
"""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

from PIL import Image

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.prepare.tally import PrepareProgress


def limit(source: Path, max_side: int | None) -> None:
    """Read and decode each image once; shrink and encode the large ones: Pillow's usual calls.

    Where bytes are kept, preparation itself decodes at an eighth of the size, which checks all of
    the data; so it can be ahead of this limit.
    """
    paths = sorted(source.rglob("*.[jJ][pP]*[gG]"))
    begin, cpu = time.perf_counter(), time.process_time()
    for path in paths:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            if max_side is None or max(image.size) <= max_side:
                image.load()
                continue
            image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
            image.save(io.BytesIO(), "JPEG", quality=90)
    found = {
        "cpu_ms": (time.process_time() - cpu) / len(paths) * 1000,
        "seconds": (time.perf_counter() - begin) / len(paths),
    }
    print(json.dumps(found))


def ours(source: Path, out: Path, workers: int, max_side: int | None, rows: int) -> None:
    """A whole preparation; CPU time means something without workers only."""
    begin = time.perf_counter()

    def tell(progress: PrepareProgress) -> None:
        line = {"seconds": time.perf_counter() - begin, "images": progress.images}
        print(json.dumps({**line, "cpu_s": time.process_time()}), flush=True)

    config = PrepareConfig(
        source=str(source), out=str(out), num_workers=workers, max_side=max_side, shard_rows=rows
    )
    prepare(config, tell)


if __name__ == "__main__":
    mode, source, out, workers, max_side, rows = sys.argv[1:]
    side = int(max_side) or None
    if mode == "limit":
        limit(Path(source), side)
    else:
        ours(Path(source), Path(out), int(workers), side, int(rows))
