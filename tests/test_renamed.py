"""Commands and configurations as older versions had them."""

from __future__ import annotations

import pytest

from itpn_ray import cli
from itpn_ray.arguments import parse
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.recipes import finetune
from itpn_ray.renamed import VERBS, options_today


def test_options_by_their_old_names() -> None:
    words = ["--loader.carrier", "threads", "--optim.drops", "0.5", "--optim.trunk-scale=0.1"]
    words += ["--optim.min-lr", "0"]
    config = parse(ExperimentConfig, words, "finetune nano", finetune.nano())
    assert config.loader.transport == "threads"
    assert config.optim.lr_milestones == (0.5,)
    assert config.optim.backbone_lr_scale == 0.1


def test_options_of_a_sweep_and_others_that_only_look_alike() -> None:
    words = ["--finetune.loader.carrier", "threads", "--my.drops", "loader.carrier"]
    assert options_today(words) == [
        *("--finetune.loader.transport", "threads", "--my.drops", "loader.carrier"),
    ]


def test_a_configuration_by_its_old_names() -> None:
    plain = to_dict(finetune.nano())
    plain["loader"]["carrier"] = plain["loader"].pop("transport")
    plain["optim"]["drops"] = plain["optim"].pop("lr_milestones")
    assert from_dict(plain) == finetune.nano()


@pytest.mark.parametrize(("before", "today"), VERBS.items())
def test_verbs_by_their_old_names(before: str, today: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], verbose: bool) -> int:
        asked.append(words)
        return 0

    monkeypatch.setitem(cli.VERBS, today, (run, ""))
    assert cli.run([before, "--train", "5"]) == 0
    assert asked == [["--train", "5"]]
