"""The Python in README and docs runs as it stands, on files of the names that it mentions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from itpn_ray.models import create_autoencoder, save_model, to_official
from itpn_ray.training.checkpoint.writer import CheckpointStore
from tests.data.made import make_image
from tests.models.detection.made import rcnn
from tests.models.nets import classifier

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier's, a detector's and a pre-training run, and a photograph."""
    folder = tmp_path_factory.mktemp("snippets")
    exported = "exported/model.safetensors"
    names = {"classes": json.dumps([f"class {n}" for n in range(10)])}
    save_model(classifier(), folder / "out/fine" / exported, names)
    names = {"classes": '["a", "b", "c"]', "view": "[64, 96]"}
    save_model(rcnn(), folder / "out/detect" / exported, names)
    save_model(create_autoencoder("nano", pyramid_depth=1), folder / "out/pre" / exported)
    official = to_official(classifier(width=128, heads=4))
    torch.save({"model": official}, folder / "fast_itpn_base_clipl_e1600.pt")
    store = CheckpointStore(str(folder / "out/night-run/checkpoints"))
    store.save(1, {"network": {"a": torch.zeros(1)}}, background=False)
    make_image(0, 90, 70).save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("code", SNIPPETS)
def test_python_in_the_docs_runs(code: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    exec(compile(code, "snippet", "exec"), {})
