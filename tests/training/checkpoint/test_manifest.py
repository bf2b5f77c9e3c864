import json

import pytest

from itpn_ray.errors import CheckpointError
from itpn_ray.training.checkpoint.manifest import CheckpointManifest, FileEntry, _canonical, _digest

MANIFEST = CheckpointManifest(
    step=100,
    epoch=1.5,
    time=1e9,
    files={"model.safetensors": FileEntry(bytes=3, sha256="0" * 64)},
    versions={"torch": "2.15"},
)


def test_a_manifest_comes_back():
    assert CheckpointManifest.decode(MANIFEST.encode(), "uri") == MANIFEST
    assert MANIFEST.size == 3


def test_every_flipped_bit_and_every_cut_is_found():
    whole = MANIFEST.encode()
    for position in range(len(whole)):
        for bit in (0, 3, 5, 7):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            with pytest.raises(CheckpointError, match="cut or changed"):
                CheckpointManifest.decode(bytes(changed), "uri")
        with pytest.raises(CheckpointError, match="cut or changed"):
            CheckpointManifest.decode(whole[:position], "uri")
    with pytest.raises(CheckpointError, match="cut or changed"):
        CheckpointManifest.decode(whole + b"\n", "uri")


def forged(**changes) -> bytes:
    """A manifest with any content and a digest that fits."""
    content = json.loads(MANIFEST.encode()) | changes
    del content["digest"]
    return _canonical(content | {"digest": _digest(content)})


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/etc/x.json", "a/b.json", "model.pkl", ".x.json", "m.pt", ""]
)
def test_a_forged_manifest_names_no_file_elsewhere(name):
    entry = {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(CheckpointError):
        CheckpointManifest.decode(forged(files={name: entry}), "uri")


def test_a_forged_manifest_is_refused():
    for changes in (
        {"files": []},
        {"files": {"a.json": {"bytes": 1, "sha256": "x"}}},
        {"step": "x"},
    ):
        with pytest.raises(CheckpointError, match="cut or changed"):
            CheckpointManifest.decode(forged(**changes), "uri")


def test_another_format_says_so():
    with pytest.raises(CheckpointError, match="Upgrade"):
        CheckpointManifest.decode(forged(format=2), "uri")
