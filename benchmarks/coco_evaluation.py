"""COCO's evaluation: how fast the project's is beside pycocotools, and whether both find the same.

Annotations and detections of COCO val2017's number of images are drawn: 80 classes, 7 objects an
image, crowds, equal scores, detections that repeat each other. Boxes and masks, in turn.

    python benchmarks/coco_evaluation.py
    python benchmarks/coco_evaluation.py --images 200 --repeats 3
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from itpn_ray.evaluation.coco_ap import coco_metrics  # noqa: E402
from itpn_ray.evaluation.pasting import encode  # noqa: E402

WIDTH, HEIGHT, CLASSES = 200, 160, 80
DETECTIONS = {"box": 100, "mask": 25}
Entry = dict[str, Any]


def ellipse(box: NDArray[np.float64]) -> Entry:
    """The mask of the ellipse in a box, run-length encoded."""
    x, y, width, height = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    across = (columns - x - width / 2) / (width / 2)
    down = (rows - y - height / 2) / (height / 2)
    return encode(np.asfortranarray((across**2 + down**2 <= 1).astype(np.uint8)))


def any_box(rng: np.random.Generator) -> NDArray[np.float64]:
    """A box (x, y, width, height) inside the image."""
    width, height = rng.uniform(2, 90, 2)
    return np.array([rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height), width, height])


def detected(
    rng: np.random.Generator, there: list[Entry], classes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], int]:
    """A box and class: near an object of the image in four of ten, one of them twice, or none."""
    if not there or rng.random() > 0.4:
        return any_box(rng), int(rng.choice(classes))
    chosen = there[0] if rng.random() < 0.1 else there[rng.integers(len(there))]
    box = np.array(chosen["bbox"]) + rng.normal(0, 3, 4)
    # A detection of the wrong class now and then.
    label = int(rng.integers(1, CLASSES + 1)) if rng.random() < 0.15 else chosen["category_id"]
    return np.append(box[:2], box[2:].clip(1)), label


def draw(images: int, kind: str) -> tuple[dict[str, list[Entry]], list[Entry]]:
    """Annotations and results."""
    rng = np.random.default_rng(0)
    annotations: list[Entry] = []
    results: list[Entry] = []
    for image in range(1, images + 1):
        classes = rng.integers(1, CLASSES + 1, rng.integers(1, 5))
        there: list[Entry] = []
        for _ in range(rng.poisson(7.3)):
            box = any_box(rng)
            entry: Entry = {"image_id": image, "category_id": int(rng.choice(classes))}
            entry |= {"bbox": box.tolist(), "area": float(box[2] * box[3])}
            entry |= {"id": len(annotations) + len(there) + 1, "iscrowd": int(rng.random() < 0.02)}
            there.append(entry | ({"segmentation": ellipse(box)} if kind == "mask" else {}))
        annotations += there
        for _ in range(DETECTIONS[kind]):
            box, label = detected(rng, there, classes)
            # Half of the scores of two digits, so that many are equal.
            score = float(np.round(rng.random(), 2 if rng.random() < 0.5 else 6))
            place = {"segmentation": ellipse(box)} if kind == "mask" else {"bbox": box.tolist()}
            results.append({"image_id": image, "category_id": label, "score": score, **place})
    truth = {
        "images": [{"id": n, "width": WIDTH, "height": HEIGHT} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n)} for n in range(1, CLASSES + 1)],
    }
    return truth, results


def ours(truth: dict[str, list[Entry]], results: list[Entry], kind: str) -> list[float]:
    """The project's twelve metrics."""
    return list(coco_metrics(truth, results, [kind]).metrics.values())


def theirs(truth: dict[str, list[Entry]], results: list[Entry], kind: str) -> list[float]:
    """The twelve metrics of pycocotools, of those that an object counts for."""
    with contextlib.redirect_stdout(io.StringIO()):
        compared = COCO()
        compared.dataset = truth
        compared.createIndex()
        found = compared.loadRes(results)
        evaluation = COCOeval(compared, found, "segm" if kind == "mask" else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats if value > -1]


def timed(call: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Seconds of a call, and what it gave."""
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def main() -> None:
    """Time both in turn and print medians, their ratio and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    for kind in DETECTIONS:
        truth, results = draw(options.images, kind)
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(options.repeats):
            own, found = timed(partial(ours, truth, results, kind))
            # It writes into the entries that it is given.
            given = copy.deepcopy((truth, results))
            other, expected = timed(partial(theirs, *given, kind))
            seconds["ours"].append(own)
            seconds["theirs"].append(other)
        own, other = median(seconds["ours"]), median(seconds["theirs"])
        apart = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        print(
            f"{kind}: {own:.2f} s, pycocotools {other:.2f} s, {other / own:.1f} times as long; "
            f"metrics differ by {apart:.1e} at most"
        )


if __name__ == "__main__":
    main()
