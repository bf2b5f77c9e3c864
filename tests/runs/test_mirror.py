"""A run's folder kept under a URI: what lies there, and what a lost machine leaves."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from itpn_ray.errors import ConfigError, RunError
from itpn_ray.runs.folder import EXPORT, folder_of
from itpn_ray.runs.mirror import Mirror, fetched, kept, run_place, working_folder
from itpn_ray.storage import open_store


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test is a machine of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_is_written_is_stored_and_what_goes_is_removed(s3_uri: str) -> None:
    with kept(s3_uri, "run"):
        folder = run_place(s3_uri, "run")
        write(folder, config="{}", plots__one="a", checkpoints__step="x")
        write(folder, ray__log="y", lease__1="z")
        write(folder, **{".hidden": "h"})
    assert open_store(s3_uri).list() == ["run/config", "run/plots/one"]
    with kept(s3_uri, "run"):
        (folder / "plots/one").unlink()
        write(folder, config="{1}")
    assert open_store(s3_uri).list() == ["run/config"]
    assert open_store(s3_uri).read_bytes("run/config") == b"{1}"


def test_another_machine_goes_on_where_the_first_was_lost(s3_uri: str, scratch: Path) -> None:
    with kept(s3_uri, "run"):
        write(run_place(s3_uri, "run"), metrics="1\n2\n")
    shutil.rmtree(scratch)
    with kept(s3_uri, "run"):
        folder = run_place(s3_uri, "run")
        assert (folder / "metrics").read_text() == "1\n2\n"
        with (folder / "metrics").open("a") as file:
            file.write("3\n")
    assert (fetched(f"{s3_uri}/run") / "metrics").read_text() == "1\n2\n3\n"


def test_what_lies_under_the_uri_wins_over_an_old_working_folder(s3_uri: str) -> None:
    write(working_folder(s3_uri, "run"), stale="left by a run that lost its lease")
    open_store(f"{s3_uri}/run").write_bytes("config", b"{}")
    with kept(s3_uri, "run"):
        assert [path.name for path in run_place(s3_uri, "run").iterdir()] == ["config"]


def test_only_what_has_changed_is_stored_again(s3_uri: str) -> None:
    folder = run_place(s3_uri, "run")
    mirror = Mirror(folder, f"{s3_uri}/run")
    mirror.pull()
    write(folder, one="1", two="2")
    mirror.push()
    open_store(f"{s3_uri}/run").write_bytes("one", b"by somebody else")
    write(folder, two="22")
    mirror.push()
    assert open_store(f"{s3_uri}/run").read_bytes("one") == b"by somebody else"
    assert open_store(f"{s3_uri}/run").read_bytes("two") == b"22"


def test_a_store_that_fails_at_the_end_is_told_with_the_place_of_the_files(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, key: str, data: bytes) -> None:
        raise OSError("the bucket is gone")

    def run() -> None:
        with kept(s3_uri, "run"):
            monkeypatch.setattr("itpn_ray.storage.s3.S3Store.write_bytes", full)
            write(folder, config="{}")

    folder = run_place(s3_uri, "run")
    with pytest.raises(RunError, match="the bucket is gone") as told:
        run()
    assert str(folder) in str(told.value)
    assert (folder / "config").exists()


def test_a_database_is_stored_as_between_two_transactions(s3_uri: str, tmp_path: Path) -> None:
    folder = run_place(s3_uri, "run")
    mirror = Mirror(folder, f"{s3_uri}/run")
    mirror.pull()
    with closing(sqlite3.connect(folder / "study.sqlite", isolation_level=None)) as study:
        study.execute("CREATE TABLE trials (number)")
        study.execute("BEGIN IMMEDIATE")
        study.execute("INSERT INTO trials VALUES (1)")
        mirror.push()
        study.execute("COMMIT")
    open_store(f"{s3_uri}/run").get_file("study.sqlite", tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert copy.execute("SELECT count(*) FROM trials").fetchall() == [(0,)]
    assert open_store(f"{s3_uri}/run").list() == ["study.sqlite"]


def test_trials_lie_in_their_sweep_here_as_under_the_uri(s3_uri: str) -> None:
    """Their checkpoints are written there, and their weights are left there."""
    with kept(s3_uri, "tune"):
        folder = run_place(s3_uri, "tune")
        assert run_place(f"{s3_uri}/tune/trials", "trial-000") == folder / "trials/trial-000"
        write(folder, trials__one__metrics="1", trials__one__checkpoints__step="x")
        write(folder, **{f"trials__one__{EXPORT}": "w", "repeats__two__metrics": "2"})
    keys = [f"tune/trials/one/{EXPORT}", "tune/trials/one/metrics"]
    assert open_store(s3_uri).list() == keys
    with kept(s3_uri, "tune"):
        assert not (folder / "trials/one" / EXPORT).exists()
    assert open_store(s3_uri).list() == keys


def test_reading_a_run_leaves_its_working_folder_alone(s3_uri: str) -> None:
    with kept(s3_uri, "run"):
        folder = run_place(s3_uri, "run")
        write(folder, metrics="1")
        open_store(f"{s3_uri}/run").write_bytes("config", b"{}")
        assert [path.name for path in fetched(f"{s3_uri}/run").iterdir()] == ["config"]
        assert [path.name for path in folder.iterdir()] == ["metrics"]


def test_a_driver_that_was_replaced_stores_nothing_more(s3_uri: str) -> None:
    def lost() -> None:
        raise RunError("run", "run", "was taken over", "Leave the run to it")

    def go_on() -> None:
        with kept(s3_uri, "run", lost):
            write(run_place(s3_uri, "run"), metrics="old")

    open_store(f"{s3_uri}/run").write_bytes("metrics", b"new")
    with pytest.raises(RunError, match="taken over"):
        go_on()
    assert open_store(f"{s3_uri}/run").read_bytes("metrics") == b"new"


def test_local_folders_are_left_alone(tmp_path: Path) -> None:
    with kept(str(tmp_path), "run"):
        assert run_place(str(tmp_path), "run") == tmp_path / "run"
    assert not (tmp_path / "run").exists()


def test_a_uri_is_no_folder() -> None:
    with pytest.raises(ConfigError, match="is no folder of this machine"):
        folder_of("s3://bucket/out", "run")


def test_a_run_that_is_not_there(s3_uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        fetched(f"{s3_uri}/none")
