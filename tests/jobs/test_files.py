"""Job files: checked whole before anything is sent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from itpn_ray import cli
from itpn_ray.errors import ConfigError
from jobs.chain import as_argument, from_argument, run_chain
from jobs.files import Job, Step, read_job

JOBS = Path(__file__).parents[2] / "jobs"
FILES = sorted(JOBS.glob("*.yaml"))
CHAIN = str(JOBS / "chain.yaml")
PLACES = ("raw=s3://b/raw", "place=s3://b/place")


def own_places(path: Path) -> list[str]:
    """A change for each value that stands there as a placeholder."""
    return [
        f"{name}=s3://b/{name}" for name in re.findall(r"^  (\w+): .*YOUR-", path.read_text(), re.M)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_asks_for_verbs_that_take_its_options(path: Path) -> None:
    job = read_job(str(path), own_places(path))
    assert job.name == path.stem.replace("_", "-")
    assert not any("$" in word or "YOUR-" in word for step in job.steps for word in step.words)
    assert bool(job.done) == (len(job.steps) > 1)
    with pytest.raises(ConfigError, match="is a placeholder"):
        read_job(str(path))


def test_there_is_a_file_for_each_kind_of_job() -> None:
    names = {"imagenet_pretrain", "imagenet_finetune", "coco_detect", "sweep", "chain"}
    assert names == {path.stem for path in FILES}


def test_values_and_options_are_changed() -> None:
    job = read_job(CHAIN, [*PLACES, "workers=2", "pretrain.optim.epochs=99", "evaluate.split=test"])
    steps = {step.name: " ".join(step.words) for step in job.steps}
    assert "--workers 2" in steps["finetune"]
    assert "--optim.epochs 99" in steps["pretrain"]
    assert "--optim.epochs" not in steps["finetune"]
    assert "--migration 0 0.2 --split test" in steps["evaluate"]
    assert job.done == "s3://b/place/chain"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("workerz=3", r"set: value of .*'workerz': is not known\. Did you mean 'workers'"),
        ("pretran.workers=3", r"'pretran': is not known\. Did you mean 'pretrain'"),
        ("pretrain.workerz=3", r"pretrain: option = 'workerz': .*Did you mean 'workers'"),
        ("pretrain.optim.lrr=3", r"pretrain: option = 'optim.lrr': .*Did you mean 'optim.lr'"),
        ("evaluate.migrations=0", r"evaluate: option = 'migrations': .*mean 'migration'"),
        ("pretrain.workers=x", r"pretrain: workers = 'x': is not a number of workers"),
        ("pretrain.optim.lr=-1", r"pretrain: optim.lr = -1.0: must be positive"),
        ("pretrain.optim.epochs=ten", r"pretrain: Error parsing --optim.epochs: could not convert"),
        ("pretrain.gpus=maybe", r"pretrain: Unrecognized options: maybe"),
        ("finetune=fast_itpn_tinny", r"recipe = 'fast_itpn_tinny': .*Did you mean 'fast_itpn_"),
        ("workers", "is no NAME=VALUE"),
        ("place=here", r"done = 'here/chain': is no place that the cluster keeps"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_told(change: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read_job(CHAIN, [*PLACES, change])
    assert "\n" not in str(caught.value)


GOOD = """
name: mine
values: {data: /d}
done: /tmp/done
steps:
  - name: one
    run: prepare
    options: {source: "${data}", out: /o}
  - {name: two, run: pretrain nano, options: {data: /o}}
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: mine", "nam: mine", r"key = 'nam': is not known\. Did you mean 'name'"),
        ("name: mine", "", r"has no name\. Add name"),
        ("name: mine", "name: My Job", "'My Job': is no name of a job or step"),
        ("steps:", "stepz:", r"'stepz': .*Did you mean 'steps'"),
        ("    options: {s", "    option: {s", r"mine: one: key = 'option': .*mean 'options'"),
        ("name: two", "name: one", r"'one': stands there twice"),
        ("run: prepare", "run: prepair", r"one\.run = 'prepair': .*Did you mean 'prepare'"),
        ("run: prepare", "run: submit", r"one\.run = 'submit': is not known"),
        ("pretrain nano", "pretrain nanoo", r"two: recipe = 'nanoo': .*Did you mean 'nano'"),
        ("${data}", "${date}", r"'date': is not known\. Did you mean 'data'"),
        ("values: {data: /d}", "values: [data]", "is no list of NAME: VALUE"),
        ("out: /o}", "out: {a: b}}", "is no value"),
        ("done: /tmp/done", "done: tmp", "is no place that the cluster keeps"),
        ("  - {name: two", "  - {name: [two]", "is no name of a job or step"),
        ("steps:", "steps: {", "is no YAML"),
    ],
)
def test_a_mistake_in_a_file_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "mine"
    path.write_text(GOOD)
    assert [step.name for step in read_job(str(path)).steps] == ["one", "two"]
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=told) as caught:
        read_job(str(path))
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "job.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(ConfigError, match="is no job file"):
        read_job(str(path))
    assert not mark.exists()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_job(str(tmp_path / "none.yaml"))


def test_finished_steps_are_not_repeated(tmp_path: Path) -> None:
    ran: list[str] = []

    def chain(*words: str, fails: str = "") -> int:
        steps = tuple(Step(name=f"s{n}", words=(word,)) for n, word in enumerate(words))
        job = Job(name="c", steps=steps, done=str(tmp_path / "done"))
        ran.clear()

        def run(words: list[str]) -> int:
            ran.append(words[0])
            return 3 if words[0] == fails else 0

        return run_chain(from_argument(as_argument(job)), run)

    assert (chain("a", "b", "c", fails="b"), ran) == (3, ["a", "b"])
    assert (chain("a", "b", "c"), ran) == (0, ["b", "c"])
    assert (chain("a", "b", "c"), ran) == (0, [])
    # What follows a step that has changed is done again too.
    assert (chain("a", "other", "c"), ran) == (0, ["other", "c"])


def test_either_a_verb_or_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    address = ("--address", "http://127.0.0.1:9")
    for words, told in (
        (["submit", *address], "names no verb and no job file"),
        (["submit", CHAIN, *address, "--", "demo"], "takes either a verb or a job file"),
        (["submit", *address, "--set", "a=b", "--", "demo"], "changes a job file, and none is"),
        (["submit", "jobs/none.yaml", *address], "cannot be read"),
    ):
        assert cli.run(words) == 2
        assert told in capsys.readouterr().err


def test_a_chain_as_a_rayjob(capsys: pytest.CaptureFixture[str]) -> None:
    manifest = str(JOBS.parent / "clusters" / "kuberay" / "rayjob.yaml")
    words = [word for place in PLACES for word in ("--set", place)]
    assert cli.run(["submit", CHAIN, "--kubernetes", manifest, *words]) == 0
    assert "python -m jobs.chain" in capsys.readouterr().out
