import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from itpn_ray.errors import DataError
from itpn_ray.storage.local import LocalStore


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def test_objects_come_back_are_listed_and_go(tmp_path):
    store = LocalStore(tmp_path / "new")
    assert store.list() == []
    store.write_bytes("a/b.bin", b"one")
    store.write_bytes("a/b.bin", b"two")
    (tmp_path / "source").write_bytes(b"three")
    store.put_file(tmp_path / "source", "a/c.bin")
    store.put_file(tmp_path / "source", "d.bin", move=True)
    assert not (tmp_path / "source").exists()
    assert store.list() == ["a/b.bin", "a/c.bin", "d.bin"]
    assert store.list("a/c") == ["a/c.bin"]
    assert [store.read_bytes(key) for key in store.list()] == [b"two", b"three", b"three"]
    assert store.digest("a/b.bin") == (
        3,
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    )
    store.get_file("d.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"three"
    for key in ("a/b.bin", "a/c.bin", "a/c.bin"):
        store.delete(key)
    assert not store.exists("a/c.bin")
    assert files_below(tmp_path / "new") == ["d.bin"]
    assert not (tmp_path / "new/a").exists()


def test_a_missing_object_is_a_file_not_found(tmp_path):
    store = LocalStore(tmp_path)
    for ask in (store.read_bytes, store.digest):
        with pytest.raises(FileNotFoundError):
            ask("none")


def test_a_move_between_filesystems_copies(tmp_path, monkeypatch):
    store = LocalStore(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(b"content")

    def refuse(old, new):
        if Path(old) == source:
            raise OSError(errno.EXDEV, "cross-device link")
        real(old, new)

    real = os.replace
    stat = Path.stat
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(
        Path,
        "stat",
        lambda self, **options: (
            os.stat_result([1, 2, -1, *stat(self, **options)[3:]])
            if self == source
            else stat(self, **options)
        ),
    )
    store.put_file(source, "key", move=True)
    monkeypatch.undo()
    assert store.read_bytes("key") == b"content"
    assert not source.exists()


@pytest.mark.parametrize(
    "key", ["", "/etc/x", "../x", "a/../../x", "a//b", "a\\b", ".hidden", "a/"]
)
def test_a_key_that_leads_outside_is_refused(tmp_path, key):
    store = LocalStore(tmp_path / "store")
    for ask in (store.read_bytes, store.delete, store.exists, store.local_path):
        with pytest.raises(DataError, match="plain relative path"):
            ask(key)
    with pytest.raises(DataError):
        store.write_bytes(key, b"")
    assert files_below(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_object_and_nothing_else(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    store.write_bytes("key", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_bytes("key", b"new")
    with pytest.raises(OSError, match="No space"):
        store.put_if_absent("other", b"new")
    assert store.read_bytes("key") == b"old"
    assert files_below(tmp_path) == ["key"]


def test_of_many_callers_one_creates_the_object(tmp_path):
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: store.put_if_absent("key", b"%d" % i), range(32)))
    assert sum(made) == 1
    assert store.read_bytes("key") == b"%d" % made.index(True)
    assert files_below(tmp_path) == ["key"]


def test_a_name_points_to_a_folder_and_can_be_moved_on(tmp_path):
    store = LocalStore(tmp_path)
    assert store.pointed("last") is None
    for target in ("one", "two"):
        store.write_bytes(f"{target}/file", target.encode())
        store.point("last", target)
        assert store.pointed("last") == target
        assert (tmp_path / "last/file").read_text() == target
    assert store.list() == ["one/file", "two/file"]
