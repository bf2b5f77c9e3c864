"""Folders among temporary files that are this user's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.storage import scratch
from itpn_ray.storage.scratch import private_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("LOGNAME", "somebody")


def test_a_folder_is_made_once_and_nobody_else_may_write_to_it() -> None:
    folder = private_folder("itpn_ray_test")
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "kept").touch()
    folder.chmod(0o777)  # as a lenient umask would have left it
    assert private_folder("itpn_ray_test") == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "kept").exists()


def test_what_is_no_folder_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private_folder("itpn_ray_test")
    with monkeypatch.context() as patch:
        patch.setattr(scratch.os, "getuid", lambda: os.geteuid() + 1)
        with pytest.raises(ConfigError, match="is no folder of this user's"):
            private_folder("itpn_ray_test")
    moved = folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(moved)
    with pytest.raises(ConfigError, match="is no folder of this user's"):
        private_folder("itpn_ray_test")


def test_a_user_without_an_account_has_one_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(scratch.getpass, "getuser", unknown)
    assert private_folder("itpn_ray_test").name == f"itpn_ray_test_{os.getuid()}"
