"""A segmentation run whose workers are killed ends as one that was left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from itpn_ray.commands.verify_resume.config import VerifyConfig
from itpn_ray.commands.verify_resume.run import verify_resume
from itpn_ray.data.config import LoaderConfig
from itpn_ray.training.claim import claim_run, run_folder
from tests.tasks.segmentation.test_task import segmentation


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("head", ["upernet", "mask_dino"])
def test_a_killed_run_ends_bit_equal(head: str, masked: str, tmp_path: Path) -> None:
    loader = LoaderConfig(transport="ray", threads=1, prefetch=32)
    config = dataclasses.replace(segmentation(masked, tmp_path, head), workers="2", loader=loader)
    claim_run(config, "itpn-ray segment nano")
    verdict = verify_resume(
        VerifyConfig(run=str(run_folder(config)), steps=16, every_steps=3, kills=1, seed=1)
    )
    assert len(verdict.kills) == 1
    assert verdict.equal
