"""The command line: bad input ends in seconds, with one line, exit code 2 and nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from itpn_ray.cli import VERBS, run
from tests.training.runs import tiny, train_alone

ALONE = ["--workers", "0", "--loader.transport", "threads"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a verb that must be refused; its one line of complaint."""
    code = run(list(arguments))
    line = capsys.readouterr().err.strip()
    assert code == 2, line
    assert "\n" not in line, line
    return line


def test_help_names_every_verb_and_is_quick() -> None:
    """Half a second on a machine of its own; an import of torch or Ray would take several."""
    code = (
        "import sys; from itpn_ray.cli import run; code = run(['--help']);"
        "print(code, {'torch', 'ray', 'mlflow', 'timm', 'pyarrow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert all(any(line.startswith(f"  {verb}") for line in shown) for verb in VERBS)
    assert last == "0 set()"


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "nano", "--help"]])
def test_nobody_reads_the_help_to_its_end(words: list[str]) -> None:
    command = [sys.executable, "-m", "itpn_ray", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""


def test_look_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["preview", "--help"])
    shown = capsys.readouterr().out
    assert "usage: itpn-ray preview DATA" in shown
    assert "--image-size" in shown


@pytest.mark.parametrize("verb", ["inspect", "export", "visualize"])
def test_a_file_is_named_in_one_way(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run([verb, "--help"])
    shown = capsys.readouterr().out
    assert "FILE" in shown
    assert "--file" not in shown


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run([verb, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'pretrain'?" in refused(capsys, "pretrian")


def test_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'nano'?" in refused(capsys, "pretrain", "nanno")


def test_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "recipe: is missing. Known: nano" in refused(capsys, "pretrain")


def test_unknown_field_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["pretrain", "nano", "--optim.lrr", "3"])
    assert stop.value.code == 2
    assert "--optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--optim.lr", "-1"], "optim.lr = -1.0: must be positive"),
        (["--workers", "two"], "workers = 'two': is not a number of workers"),
        (["--workers", "8..2"], "workers = '8..2'"),
        (["--model.image-size", "65"], "model.image_size = 65: is not a multiple of 16"),
        (["--run", "a/b"], "run = 'a/b': is not a plain name"),
        (["--optim.global-batch", "7"], "optim.global_batch = 7: is odd"),
        (["--workers", "0"], "loader.transport = 'ray': needs Ray"),
    ],
)
def test_bad_values(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "pretrain", "nano", "--out", str(tmp_path), *arguments)
    assert expected in line
    assert not list(tmp_path.iterdir())


def train(prepared: str, out: Path, *more: str) -> list[str]:
    return ["pretrain", "nano", "--data", prepared, "--out", str(out), *ALONE, *more]


def test_no_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "names no prepared data" in refused(capsys, "pretrain", "nano", "--out", str(tmp_path))


def test_data_that_are_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(capsys, *train(str(tmp_path / "nowhere"), tmp_path / "out"))
    assert "nowhere" in line
    assert "itpn-ray prepare" in line
    assert not (tmp_path / "out").exists()


def test_fewer_images_than_a_batch(
    prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, *train(prepared, tmp_path / "out", "--optim.global-batch", "128"))
    assert "an epoch of 64 images would have 0 steps" in line
    assert "Use at most 64" in line
    assert not (tmp_path / "out").exists()


def test_more_workers_than_pairs(
    prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["pretrain", "nano", "--data", prepared, "--out", str(tmp_path / "out")]
    line = refused(capsys, *command, "--workers", "64", "--optim.global-batch", "16")
    assert "has pairs for 8 workers" in line


def test_unknown_model(prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(capsys, *train(prepared, tmp_path / "out", "--model.name", "fast_itpn_bse"))
    assert "fast_itpn_base" in line


def test_initial_weights_that_are_not_there(
    prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, *train(prepared, tmp_path / "out", "--model.init", "gone.safetensors"))
    assert "gone.safetensors: does not exist" in line


def test_initial_weights_that_are_damaged(
    prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = tmp_path / "bad.safetensors"
    weights.write_bytes(b"not a weight file")
    line = refused(capsys, *train(prepared, tmp_path / "out", "--model.init", str(weights)))
    assert "bad.safetensors" in line


def test_output_that_cannot_be_written(
    prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    line = refused(capsys, *train(prepared, blocked))
    assert str(blocked) in line


def test_run_name_in_use_by_other_settings(
    prepared: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from itpn_ray.training.claim import claim_run

    claim_run(tiny(prepared, tmp_path), "itpn-ray ...")
    line = refused(capsys, *train(prepared, tmp_path, "--run", "run"))
    assert "is in use by a run with other settings" in line
    assert "Choose another --run" in line


def test_one_class_cannot_be_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for split in ("train", "val"):
        folder = tmp_path / "images" / split / "only"
        folder.mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.jpg")
    command = ["prepare", "--source", str(tmp_path / "images"), "--out", str(tmp_path / "data")]
    assert "class" in refused(capsys, *command, "--num-workers", "0")


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_nothing_to_prepare(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / what
    if what == "empty":
        source.mkdir()
    command = ["prepare", "--source", str(source), "--out", str(tmp_path / "data")]
    assert str(source) in refused(capsys, *command, "--num-workers", "0")
    assert not (tmp_path / "data").exists()


def test_nothing_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.data.made_files import write_folders

    write_folders(tmp_path / "images", {f"val/{name}": 2 for name in "ab"})
    data = str(tmp_path / "data")
    command = ["prepare", "--source", str(tmp_path / "images"), "--out", data]
    assert run([*command, "--num-workers", "0"]) == 0
    assert "there is nothing to train on, only val" in capsys.readouterr().out
    line = refused(capsys, *train(data, tmp_path / "out"))
    assert f"data = '{data}': there is no training split, only val. Prepare it with" in line


def test_submit_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "names no verb" in refused(capsys, "submit", "--address", "http://127.0.0.1:1")


def test_weights_of_no_classifier(
    prepared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from itpn_ray.training.launch.driver import export

    config = tiny(prepared, tmp_path)
    train_alone(config)
    path = export(config, tmp_path / "run")
    line = refused(capsys, "evaluate", str(path), "--data", prepared, "--out", str(tmp_path))
    assert "is no classifier, detector or segmenter with classes" in line
