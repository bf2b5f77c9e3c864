"""A run of a dense task whose workers are killed ends as one that was left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from itpn_ray.commands.verify_resume.config import VerifyConfig
from itpn_ray.commands.verify_resume.run import verify_resume
from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.training.claim import claim_run, run_folder
from tests.tasks.rotated_runs import rotated
from tests.tasks.segmentation.test_task import segmentation

RUNS: dict[str, tuple[str, Callable[[str, Path], ExperimentConfig]]] = {
    "upernet": ("masked", partial(segmentation, head="upernet")),
    "mask_dino": ("masked", partial(segmentation, head="mask_dino")),
    "rotated": ("turned", rotated),
}
"""Run -> the fixture with its data, and its settings."""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_bit_equal(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data, make = RUNS[name]
    loader = LoaderConfig(transport="ray", threads=1, prefetch=32)
    settings = make(request.getfixturevalue(data), tmp_path)
    config = dataclasses.replace(settings, workers="2", loader=loader)
    claim_run(config, f"itpn-ray {name}")
    verdict = verify_resume(
        VerifyConfig(run=str(run_folder(config)), steps=16, every_steps=3, kills=1, seed=1)
    )
    assert len(verdict.kills) == 1
    assert verdict.equal
