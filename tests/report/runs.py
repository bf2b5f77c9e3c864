"""Run folders as the verbs write them, made up for the report's tests."""

import json
import math
import random
from pathlib import Path

import torch
from PIL import Image

from itpn_ray.evaluation.confusion import plot_confusion
from itpn_ray.evaluation.pareto import pareto_front, plot_front

BEGAN = 1_790_000_000.0
CLASSES = [
    "brick",
    "bubbles",
    "checks",
    "cross",
    "dots",
    "grid",
    "leaf",
    "ring",
    "star",
    "stripes",
    "waves",
    "weave",
]


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def config(run: str, command: str, **fields) -> dict:
    return {
        "run": run,
        "out": "out",
        "data": "s3://key:hunter2@bucket/prepared",
        "workers": "2",
        "seed": 0,
        "model": {"name": "nano", "image_size": 128, "drop_path": 0.1, "init": ""},
        "optim": {"global_batch": 64, "epochs": 10.0, "lr": 0.0015, "beta2": 0.95},
        "loader": {"threads": 2, "transport": "ray"},
        "tracking": {"kind": "mlflow", "uri": "", "experiment": "itpn_ray"},
        **fields,
        "command": command,
    }


def pretraining(folder: Path, *, restarted: bool = False, steps: int = 600) -> Path:
    draw = random.Random(0)
    records = []
    for step in range(5, steps + 1, 5):
        fall = math.exp(-step / 180)
        stages = {f"mfm_stage{i}": 0.25 + 0.5 * fall / i + draw.gauss(0, 0.02) for i in (1, 2, 3)}
        mim = 0.38 + 0.6 * fall + draw.gauss(0, 0.025)
        stamp = {"step": step, "epoch": step / 60, "time": BEGAN + step * 0.4}
        train = {
            "loss": mim + 0.3 * sum(stages.values()),
            "mim": mim,
            **stages,
            "lr": 0.0015 * min(step / 60, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
            "grad_norm": 1.5 * fall + 0.4 + abs(draw.gauss(0, 0.1)),
            "images_per_s": 165 + draw.gauss(0, 8),
            "steps_per_s": 2.5,
            "computing_s": 0.31 + draw.gauss(0, 0.01),
            "reading_s": 0.03 + abs(draw.gauss(0, 0.01)),
            "updating_s": 0.02,
        }
        records.append({**stamp, "split": "train", **train})
        if step % 60 == 0:
            val = {name: value * 1.02 for name, value in train.items() if name in stages}
            val |= {"loss": train["loss"] * 1.02, "mim": mim * 1.02}
            records.append({**stamp, "split": "val", **val})
            probe = {"knn_top1": 0.62 - 0.42 * fall + draw.gauss(0, 0.01)}
            records.append({**stamp, "split": "probe", **probe})
    write_lines(folder / "metrics.jsonl", records)
    write_json(
        folder / "config.json",
        config(
            folder.name, "itpn-ray pretrain nano --workers 2", task={"kind": "pixel_pretraining"}
        ),
    )
    results = {**val, **probe, "step": steps}
    write_json(folder / "results.json", results)
    events = [{"time": BEGAN, "event": "start", "workers": "2"}]
    events += [
        {"time": BEGAN + step * 0.4, "event": "checkpoint", "step": step, "seconds": 0.05}
        for step in range(100, steps + 1, 100)
    ]
    if restarted:
        events += [
            {
                "time": BEGAN + 130,
                "event": "resume",
                "step": 300,
                "workers": 2,
                "saved": BEGAN + 120,
            },
            # Each of the two workers tells of the same step.
            {"time": BEGAN + 190, "event": "skip", "step": 470, "rank": 0, "in_a_row": 1},
            {"time": BEGAN + 190, "event": "skip", "step": 470, "rank": 1, "in_a_row": 1},
            {"time": BEGAN + 500, "event": "restart", "workers": "1"},
            {
                "time": BEGAN + 508,
                "event": "resume",
                "step": 600,
                "workers": 1,
                "saved": BEGAN + 240,
            },
        ]
    ended = BEGAN + (510 if restarted else 245)
    events.append({"time": ended, "event": "end", "status": "FINISHED", "seconds": 245})
    write_lines(folder / "events.jsonl", sorted(events, key=lambda event: event["time"]))
    sheet = Image.radial_gradient("L").resize((2 * 400, 4 * 132 - 4)).convert("RGB")
    (folder / "plots").mkdir(exist_ok=True)
    sheet.save(folder / "plots" / "reconstruction.png")
    return folder


def finetuning(folder: Path, *, status: str = "FINISHED") -> Path:
    draw = random.Random(1)
    records = []
    for step in range(5, 301, 5):
        fall = math.exp(-step / 90)
        stamp = {"step": step, "epoch": step / 30, "time": BEGAN + step}
        train = {"loss": 1.1 + 1.4 * fall + draw.gauss(0, 0.08), "lr": 0.001 * (1 - step / 300)}
        records.append({**stamp, "split": "train", **train, "images_per_s": 140.0})
        if step % 30 == 0:
            val = {"top1": 0.83 - 0.7 * fall, "top5": 0.985 - 0.4 * fall, "loss": 0.6 + 1.8 * fall}
            records.append({**stamp, "split": "val", **val, "mean_recall": val["top1"] - 0.01})
    write_lines(folder / "metrics.jsonl", records)
    recalls = [0.97 - 0.035 * i for i in range(len(CLASSES))]
    rows = [
        {"name": name, "count": 40 + i, "recall": recall, "precision": recall - 0.02}
        for i, (name, recall) in enumerate(zip(CLASSES, recalls, strict=True))
    ]
    write_json(folder / "results.json", {**val, "mean_recall": 0.77, "per_class": rows})
    write_json(
        folder / "config.json",
        config(
            folder.name,
            "itpn-ray finetune nano --model.init s3://key:hunter2@bucket/w",
            task={"kind": "classification"},
        ),
    )
    write_lines(
        folder / "events.jsonl",
        [
            {"time": BEGAN, "event": "start", "workers": "2"},
            {"time": BEGAN + 320, "event": "end", "status": status, "seconds": 320},
        ],
    )
    counts = torch.full((len(CLASSES), len(CLASSES)), 1.0) + torch.diag(torch.tensor(recalls)) * 60
    plot_confusion(counts, CLASSES, folder / "plots" / "confusion.png")
    return folder


def detection(folder: Path) -> Path:
    found = {"box_AP": 0.31, "box_AP50": 0.52, "box_AP_small": 0.12, "box_AR100": 0.44}
    found |= {"mask_AP": 0.28, "mask_AP50": 0.49, "mask_AR100": 0.4}
    records = [
        {"step": step, "epoch": step / 10, "time": BEGAN + step, "split": "val"}
        | {name: value * step / 20 for name, value in found.items()}
        for step in (10, 20)
    ]
    write_lines(folder / "metrics.jsonl", records)
    rows = [
        {"name": "cup", "count": 12, "box_AP": 0.4, "box_AP_small": None, "mask_AP": 0.35},
        {"name": "pen", "count": 0, "box_AP": None, "box_AP_small": None, "mask_AP": None},
        {"name": "ball", "count": 9, "box_AP": 0.22, "box_AP_small": 0.2, "mask_AP": 0.21},
    ]
    ratios = [{"migration": r, **found, "images_per_s": 5 + 4 * r} for r in (0.0, 0.3)]
    write_json(folder / "results.json", {**found, "per_class": rows, "migration": ratios})
    command = "itpn-ray detect nano"
    write_json(folder / "config.json", config(folder.name, command, task={"kind": "detection"}))
    return folder


def evaluation(folder: Path) -> Path:
    rows = [
        {
            "migration": r,
            "top1": 0.83 - 0.06 * r,
            "top5": 0.98,
            "loss": 0.6,
            "images_per_s": 400 / (1 - 0.4 * r),
        }
        for r in (0.0, 0.1, 0.2, 0.3, 0.4)
    ]
    write_json(folder / "results.json", {"migration": rows, "images": 480, "top1": 0.83})
    write_json(
        folder / "config.json",
        config(folder.name, "itpn-ray evaluate out/finetune", weights="out/finetune"),
    )
    events = [
        {"time": BEGAN, "event": "start"},
        {"time": BEGAN + 9, "event": "end", "status": "FINISHED"},
    ]
    write_lines(folder / "events.jsonl", events)
    return folder


def sweep(folder: Path) -> Path:
    draw = random.Random(2)
    trials = []
    for i in range(8):
        r = draw.choice([0.0, 0.1, 0.2, 0.3, 0.4])
        trials.append(
            {
                "trial": f"trial-{i:05d}",
                "feature_weight": draw.choice([0.0, 0.3, 1.0]),
                "layer_decay": round(draw.uniform(0.6, 1.0), 3),
                "migration": r,
                "epoch": draw.choice([2.0, 6.0]),
                "top1": 0.8 - 0.1 * r + draw.gauss(0, 0.04),
                "top5": 0.97,
                "loss": 0.7,
                "images_per_s": round(400 / (1 - 0.4 * r), 1),
            }
        )
    points = [(trial["images_per_s"], trial["top1"]) for trial in trials]
    front = pareto_front(points)
    for i, trial in enumerate(trials):
        trial["front"] = i in front
    trials.sort(key=lambda trial: -trial["top1"])
    trials.append(
        {"trial": "trial-00008", "layer_decay": 0.91, "migration": 0.2, "error": "worker died"}
    )
    plot_front(points, [t["trial"] for t in trials[:8]], folder / "plots" / "front.png")
    answered = {
        "answer": "trial-00003 with r = 0.2: top-1 79.0 ± 0.6 % at 435 images/s",
        "repeats": [{"trial": "trial-00003", "top1": 0.79, "half": 0.006, "seeds": 3}],
        "importance": [{"setting": "migration", "importance": 0.7, "low": 0.5, "high": 0.9}],
    }
    write_json(folder / "results.json", {"trials": trials, **answered})
    write_json(
        folder / "config.json", config(folder.name, "itpn-ray tune demo --trials 9", trials=9)
    )
    write_lines(
        folder / "events.jsonl",
        [
            {"time": BEGAN, "event": "start", "trials": 9},
            {"time": BEGAN + 3900, "event": "end", "status": "FINISHED"},
        ],
    )
    return folder


def prepared(folder: Path) -> Path:
    shard = {"file": "train/shard-00000.arrow", "rows": 500, "bytes": 1, "sha256": "0"}
    splits = {
        "train": {"count": 2400, "shards": [shard] * 5},
        "val": {"count": 480, "shards": [shard]},
    }
    write_json(
        folder / "manifest.json", {"schema_version": 1, "classes": CLASSES, "splits": splits}
    )
    (folder / "quarantine.csv").write_text(
        "path,reason\ntrain/dots/<b>bad</b>.jpg,truncated file\ntrain/leaf/7.txt,no image\n"
    )
    return folder


def demo(folder: Path) -> Path:
    stages = [
        {"folder": prepared(folder / "prepared").name, "name": "Images", "seconds": 20.5},
        {"folder": pretraining(folder / "pretrain").name},
        str(finetuning(folder / "finetune")),
        {"folder": evaluation(folder / "evaluate").name},
        {"folder": sweep(folder / "tune").name},
        {"name": "Job", "job": "evaluate on a local cluster", "status": "SUCCEEDED"},
    ]
    comparison = [
        {"name": "linear probe on pixels", "top1": 0.19},
        {"name": "fine-tuned from scratch", "top1": 0.61},
        {"name": "fine-tuned from pre-training", "top1": 0.83},
    ]
    write_json(
        folder / "results.json",
        {"stages": stages, "comparison": comparison, "pixel_probe_top1": 0.19, "seconds": 431.0},
    )
    write_json(folder / "config.json", {"run": "demo", "command": "itpn-ray demo --seed 0"})
    write_lines(
        folder / "events.jsonl",
        [
            {"time": BEGAN, "event": "start"},
            {"time": BEGAN + 431, "event": "end", "status": "FINISHED"},
        ],
    )
    return folder
