"""The contact sheet: one safe file with the images and the statistics of the shards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from itpn_ray.data.config import PreviewConfig
from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.errors import ConfigError
from itpn_ray.report.preview import preview
from tests.data.made import write_dataset

CONFIG = PreviewConfig(images=5, image_size=32)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return write_dataset(tmp_path / "set", {"train": [9, 4], "val": [3]})


def test_the_sheet_shows_images_and_statistics(uri: str, tmp_path: Path) -> None:
    path = preview(
        uri, tmp_path / "preview.html", config=CONFIG, hide=lambda ids: np.ones((len(ids), 4), bool)
    )
    page = path.read_text()
    assert page.count("data:image/jpeg;base64,") == 15  # stored, seen and masked of five
    assert len(re.findall(r"shard-0000\d\.arrow", page)) == 3
    assert "mean 0.500, 0.500, 0.500" in page
    assert "<td>a</td>" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert [p.name for p in tmp_path.glob("*preview*")] == ["preview.html"]


def test_names_are_escaped(uri: str, tmp_path: Path) -> None:
    manifest = Path(uri) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"a"', '"<script>alert(1)</script>"'))
    page = preview(uri, tmp_path / "preview.html", config=CONFIG).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_file_that_cannot_be_written_is_told(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out"):
        preview(uri, tmp_path / "no" / "preview.html", config=CONFIG)
