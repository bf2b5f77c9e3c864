"""Makes the zoo's network: nano, pre-trained on the small clothing dataset (CC0).

Only the training images are seen; the metrics are those of its validation images. The file in the
package was made from a copy of the data set whose shorter sides had been shrunk to 160 pixels
(bicubic, JPEG quality 85); the original gives another digest.

Command: python benchmarks/make_zoo.py clothing-dataset-small --out out
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models import load_model, save_model
from itpn_ray.models.weights.read import read_weights
from itpn_ray.models.zoo import FOLDER, MANIFEST, ZooEntry
from itpn_ray.recipes import pretrain
from itpn_ray.runs.folder import CONFIG, EXPORT
from itpn_ray.runs.journal import RESULTS
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch.driver import run as train
from itpn_ray.tuning.spent import hours_of

NAME = "nano_clothing10"
EPOCHS = 120


def pretraining(data: Path, out: Path) -> ExperimentConfig:
    """The recipe for nano, for longer."""
    recipe = pretrain.nano()
    return dataclasses.replace(
        recipe,
        run=NAME,
        data=str(data),
        out=str(out),
        workers="0",
        loader=LoaderConfig(transport="threads", threads=1),
        optim=dataclasses.replace(recipe.optim, epochs=EPOCHS, warmup_epochs=5),
        eval_every=0,
    )


def pack(run: Path, images: int) -> None:
    """Write the weights of a finished pre-training in float16, and their entry in the manifest."""
    file = FOLDER / f"{NAME}.safetensors"
    metadata = read_weights(run / EXPORT).metadata
    save_model(load_model(run / EXPORT).half(), file, metadata)
    settings = json.loads((run / CONFIG).read_text())
    results = json.loads((run / RESULTS).read_text())
    entry = ZooEntry(
        network=settings["model"]["name"],
        task=settings["task"]["kind"],
        data="https://github.com/alexeygrigorev/clothing-dataset-small, training images, CC0 1.0",
        images=images,
        image_size=settings["model"]["image_size"],
        epochs=settings["optim"]["epochs"],
        seed=settings["seed"],
        hours=round(hours_of([run]), 2),
        hardware="one thread of a CPU that was shared",
        command="python benchmarks/make_zoo.py clothing-dataset-small --out out",
        metrics={name: round(results[name], 4) for name in ("loss", "mim", "knn_top1")},
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    MANIFEST.write_text(json.dumps({NAME: dataclasses.asdict(entry)}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    data = options.out / "clothing10"
    made = prepare(
        PrepareConfig(source=str(options.source), out=str(data), max_side=160), lambda now: None
    )
    run = train(pretraining(data, options.out), command="make_zoo", console=Console())
    pack(run, made.splits["train"].count)


if __name__ == "__main__":
    main()
