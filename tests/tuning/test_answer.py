"""The answer of a sweep: what to use, how sure that is, what mattered, and the winner's files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from itpn_ray.errors import ConfigError
from itpn_ray.metrics import AVERAGE_PRECISION, LOSS, find
from itpn_ray.models import create_model, load_model, save_model
from itpn_ray.models.weights.read import read_weights
from itpn_ray.recipes import tune
from itpn_ray.runs.folder import CONFIG, EXPORT
from itpn_ray.runs.journal import EVENTS, METRICS
from itpn_ray.storage import open_store
from itpn_ray.tuning.answer import Score, best_rows, fitting, recommended, row_key, sentence
from itpn_ray.tuning.conclusion import apply_trial, repeat
from itpn_ray.tuning.config import pretraining
from itpn_ray.tuning.importance import FEWEST, importances, refusal, usable
from itpn_ray.tuning.next_sweep import _suggestion, next_sweep
from itpn_ray.tuning.space import parse_space
from itpn_ray.tuning.speed import free_of_speed
from itpn_ray.tuning.spent import hours_line, hours_of
from tests.report.runs import write_lines

TOP1 = find("top1")


def row(trial: str, top1: float, images_per_s: float, migration: float = 0.0) -> dict:
    speed = {"images_per_s": images_per_s, "ms": 1000 / images_per_s}
    return {"trial": trial, "top1": top1, "migration": migration, "layer_decay": 0.82, **speed}


ROWS = [row("a", 0.717, 300.0), row("b", 0.713, 436.0, 0.2), row("c", 0.50, 500.0, 0.4)]


def scores(rows: list[dict], images: int = 1000) -> dict[str, Score]:
    return {row_key(one): Score.of([one["top1"]], TOP1, images) for one in rows}


def test_intervals_of_one_run_are_of_its_images_and_of_several_of_their_seeds() -> None:
    assert Score.of([0.5], TOP1, 100).text(TOP1) == "50.0 ± 9.6 %"
    several = Score.of([0.70, 0.71, 0.72], TOP1, 100)
    assert several.half == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)
    assert several.text(TOP1) == "71.0 ± 2.5 % (3 seeds)"
    box = next(one for one in AVERAGE_PRECISION if one.headline)
    assert Score.of([0.31], box, 100).text(box) == "31.0 %"
    assert Score.of([0.5, 0.7], LOSS, 0).text(LOSS) == "0.6000 ± 1.3 (2 seeds)"


def test_the_fastest_of_those_as_good_as_the_best_is_recommended() -> None:
    assert recommended(ROWS, scores(ROWS), TOP1)["trial"] == "b"
    assert recommended(ROWS, scores(ROWS, 10**7), TOP1)["trial"] == "a"
    assert recommended(fitting(ROWS, at_least=450, at_most_ms=0), scores(ROWS), TOP1) == ROWS[2]
    assert [one["trial"] for one in best_rows(ROWS, TOP1, 2)] == ["a", "b"]
    assert fitting(ROWS, at_least=0, at_most_ms=2.1) == ROWS[2:]


def test_a_lower_metric_may_be_the_better_one() -> None:
    rows = [one | {"loss": 1 - one["top1"]} for one in ROWS]
    found = {row_key(one): Score(value=one["loss"], half=0.0, seeds=1) for one in rows}
    assert recommended(rows, found, LOSS)["trial"] == "a"
    assert best_rows(rows, LOSS, 1)[0]["trial"] == "a"


def test_a_single_run_does_not_beat_a_mean_of_several() -> None:
    found = scores(ROWS) | {row_key(ROWS[0]): Score(value=0.717, half=0.02, seeds=3)}
    assert recommended(ROWS, found, TOP1)["trial"] == "a"


def test_the_sentence() -> None:
    told = sentence(
        ROWS[1], ROWS, scores(ROWS), TOP1, ["migration", "layer_decay"], at_least=400, at_most_ms=0
    )
    assert told == (
        "at >= 400 images/s: b with r = 0.2, layer decay = 0.82: top-1 71.3 ± 2.8 % at "
        "436 images/s; 0.4 points from the best at any speed, a (300 images/s)"
    )
    best = sentence(ROWS[0], ROWS, scores(ROWS), TOP1, ["migration"], at_least=0, at_most_ms=8)
    assert best.startswith("at <= 8 ms an image: a with r = 0: ")
    assert best.endswith("300 images/s; the best at any speed")


def planned(count: int) -> list[FrozenTrial]:
    """A response in which lr matters, and the rest does not."""
    space = {"lr": FloatDistribution(0.0, 1.0), "decay": FloatDistribution(0.0, 1.0)}
    return [
        create_trial(
            params=params,
            distributions=space,
            values=[params["lr"] ** 2 + 0.01 * params["decay"], 100.0],
            user_attrs={"design": number},
        )
        for number in range(count)
        for params in [{"lr": number * 0.618 % 1.0, "decay": number * 0.755 % 1.0}]
    ]


def test_what_matters_is_found_with_its_interval() -> None:
    first, second = importances(planned(FEWEST), 0, resamples=4)
    assert (first["setting"], second["setting"]) == ("lr", "decay")
    assert 0.6 < first["low"] <= first["high"] <= 1
    assert first["importance"] + second["importance"] == pytest.approx(1)


def test_few_trials_tell_no_importance() -> None:
    assert refusal(FEWEST) == ""
    assert f"7 came to their end, and {FEWEST} are needed" in refusal(7)
    trials = planned(2)
    stopped = create_trial(state=TrialState.PRUNED, user_attrs={"design": 2})
    searched = create_trial(values=[0.5, 1.0], params={}, distributions={})
    assert usable([*trials, stopped, searched], "design") == trials


def test_repeats_differ_by_their_seed_alone(prepared: str, tmp_path: Path) -> None:
    space = ("optim.layer_decay uniform 0.6 1",)
    sweep = dataclasses.replace(tune.nano(), data=prepared, space=space)
    point = {"layer_decay": 0.7}
    weights = {pretraining(sweep, point).run: "weights"}
    first, second = (repeat(sweep, "trial-000", point, weights, n) for n in (1, 2))
    assert (first.seed, second.seed) == (sweep.finetune.seed + 1, sweep.finetune.seed + 2)
    assert first.model.init == "weights"
    assert dataclasses.replace(second, run=first.run, seed=first.seed) == first


def test_the_winner_is_copied_as_a_run(tmp_path: Path) -> None:
    source = tmp_path / "trials" / "trial-001"
    (source / EXPORT).parent.mkdir(parents=True)
    (source / EXPORT).write_bytes(b"weights")
    (source / CONFIG).write_text("{}")
    sweep = dataclasses.replace(tune.nano(), out=str(tmp_path.parent), run=tmp_path.name)
    best, other = (dataclasses.replace(sweep, apply=name) for name in ("best", "trial-000"))
    place = Path(apply_trial(best, tmp_path, "trial-001", 0.0))
    assert (place / EXPORT).read_bytes() == b"weights"
    assert (place / CONFIG).read_text() == "{}"
    with pytest.raises(ConfigError, match="means trial-000, which was not trained to its end"):
        apply_trial(other, tmp_path, "trial-001", 0.0)


def test_the_winner_of_a_sweep_under_a_uri_is_copied_wherever_it_was_trained(
    s3_uri: str, tmp_path: Path
) -> None:
    sweep = dataclasses.replace(tune.nano(), out=s3_uri, run="tune", apply="best")
    store = open_store(s3_uri)
    store.write_bytes(f"tune/trials/trial-001/{EXPORT}", b"weights")
    (tmp_path / "trials/trial-001").mkdir(parents=True)
    (tmp_path / "trials/trial-001" / CONFIG).write_text("{}")
    assert apply_trial(sweep, tmp_path, "trial-001", 0.0) == f"{s3_uri}/tune/best"
    assert (tmp_path / "best" / EXPORT).read_bytes() == b"weights"
    with pytest.raises(ConfigError, match="means no trial, which was not trained to its end"):
        apply_trial(sweep, tmp_path, "", 0.0)


def test_the_winner_with_elastic_r_is_fixed_at_the_r_that_is_recommended(tmp_path: Path) -> None:
    source = tmp_path / "trials" / "trial-001"
    model = create_model("nano", num_classes=2, image_size=64)
    save_model(model, source / EXPORT, {"classes": '["a", "b"]'})
    plain = {"model": {"elastic_migration": [0.0, 0.25], "migration": 0.0}}
    (source / CONFIG).write_text(json.dumps(plain))
    sweep = dataclasses.replace(
        tune.nano(), out=str(tmp_path.parent), run=tmp_path.name, apply="best"
    )
    place = Path(apply_trial(sweep, tmp_path, "trial-001", 0.25))
    fixed = json.loads((place / CONFIG).read_text())
    assert fixed == {"model": {"elastic_migration": [], "migration": 0.25}}
    weights = read_weights(place / EXPORT)
    assert weights.metadata["classes"] == '["a", "b"]'
    assert load_model(place / EXPORT).acceleration.ratio == 0.25
    assert load_model(source / EXPORT).acceleration.ratio == 0.0


def searched(trials: int) -> list[dict]:
    """Rows that are the worse the lower lr is."""
    return [
        {
            "trial": str(n),
            "top1": 0.9 - 0.05 * n,
            "images_per_s": 100.0,
            "feature_weight": (0.0, 0.3, 1.0)[n % 3],
        }
        | {"lr": 10 ** -(2 + 2 * n / trials), "layer_decay": 0.7 + 0.01 * (n % 2)}
        for n in range(trials)
    ]


def test_what_the_next_sweep_should_try() -> None:
    space = parse_space(
        (
            "optim.lr log 1e-4 1e-2",
            "optim.layer_decay uniform 0.5 1",
            "task.feature_weight choice 0 0.3 1",
            "model.migration choice 0 0.2 0.4",
        ),
        tune.nano().pretrain,
        tune.nano().finetune,
    )
    free = free_of_speed(space, tune.nano().finetune.task)
    assert next_sweep(searched(6), free, TOP1) == [
        "learning rate above 0.01: the best trial lies at the upper end",
        "a narrower layer decay, where the best third lies: "
        "--space.optim.layer-decay uniform 0.7 0.71",
        "λ without 1.0, which none of the best third has",
    ]
    assert "--extend" in next_sweep(searched(5), free, TOP1)[0]


@pytest.mark.parametrize(
    ("space", "values", "told"),
    [
        ("optim.warmup_steps uniform 1 9", (4, 4), "fixed at 4, which all"),
        ("optim.lr log 1e-4 1e-2", (0.001001, 0.001002), "log 0.001001 0.001002"),
        ("optim.weight_decay uniform 0.1 0.3", (0.2, 0.2), "fixed at 0.2, which all"),
        ("optim.max_skipped_steps uniform 1 30000", (12345, 12350), "uniform 12345 12350"),
    ],
)
def test_a_suggested_range_can_be_given_to_the_next_sweep(
    space: str, values: tuple[float, float], told: str
) -> None:
    recipe = tune.nano()
    (one,) = parse_space((space,), recipe.pretrain, recipe.finetune)
    found = _suggestion(one, values)
    assert told in found
    if "--space." in found:
        written = found.partition("--space.")[2]
        parse_space((written,), recipe.pretrain, recipe.finetune)


def test_hours_leave_out_the_time_in_which_no_driver_ran(tmp_path: Path) -> None:
    begin, again = ({"time": t, "event": e} for t, e in ((0.0, "start"), (9000.0, "restart")))
    write_lines(tmp_path / EVENTS, [begin, {"time": 1800.0, "event": "checkpoint"}, again])
    write_lines(tmp_path / METRICS, [{"time": 10800.0, "split": "val", "step": 1}])
    assert hours_of([tmp_path, tmp_path]) == pytest.approx(2.0)
    told = {"pretraining_hours": 0.0, "trial_hours": 2.0, "repeat_hours": 0.5}
    assert hours_line(told) == "spent: 2.00 h of trials, 0.50 h of repeats"
