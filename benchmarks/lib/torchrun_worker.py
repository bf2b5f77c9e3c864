"""A worker of a run that torchrun started: the loop that Ray Train's workers run, without Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from itpn_ray.experiment import from_dict
from itpn_ray.runs.journal import FileJournal
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import work


def main(path: str) -> None:
    """Train by the configuration in a JSON file."""
    config = from_dict(json.loads(Path(path).read_text()))
    worker = TrainContext.in_group(config)
    work(config, worker, FileJournal(run_folder(config)), lambda figures: None)


if __name__ == "__main__":
    main(sys.argv[1])
