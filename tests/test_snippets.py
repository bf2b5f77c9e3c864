"""The Python in README and docs runs as it stands, on files of the names that it mentions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import itpn_ray
from itpn_ray.models import create_autoencoder, create_segmenter, save_model, to_official
from itpn_ray.tracking import NoopTracker
from itpn_ray.training.checkpoint.writer import CheckpointStore
from itpn_ray.training.launch import driver
from tests.data.made import jpeg, make_image
from tests.models.detection.made import rcnn
from tests.models.nets import classifier

ROOT = Path(__file__).resolve().parent.parent
# Packages of a user's own, which other tests make whole: tests/own_task, tests/test_docs.py.
OWN = {"metric", "own-source", "own-task"}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.stem not in OWN),
]
SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data, a classifier's, a detector's and a pre-training run, a photo."""
    folder = tmp_path_factory.mktemp("snippets")
    for number in range(80):
        path = folder / f"images/class {number % 10}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(make_image(number, 48, 48)))
    itpn_ray.prepare(folder / "images", folder / "data/mine", num_workers=0, quiet=True)
    exported = "exported/model.safetensors"
    names = {"classes": json.dumps([f"class {n}" for n in range(10)])}
    save_model(classifier(), folder / "out/fine" / exported, names)
    names = {"classes": '["a", "b", "c"]', "view": "[64, 96]"}
    save_model(rcnn(), folder / "out/detect" / exported, names)
    save_model(create_autoencoder("nano", pyramid_depth=1), folder / "out/pre" / exported)
    network = create_segmenter("nano", num_classes=3, head="mlp", image_size=64)
    save_model(network, folder / "out/segment" / exported, {"view": "[64, 64]"})
    vectors = {"path": ["a.jpg", "b.jpg"], "feature": [[1.0, 0.0], [0.0, 1.0]]}
    (folder / "out/mine").mkdir()
    pq.write_table(pa.table(vectors), folder / "out/mine/features.parquet")
    official = to_official(classifier(width=128, heads=4))
    torch.save({"model": official}, folder / "fast_itpn_base_clipl_e1600.pt")
    store = CheckpointStore(str(folder / "out/night-run/checkpoints"))
    store.save(1, {"network": {"a": torch.zeros(1)}}, background=False)
    make_image(0, 90, 70).save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("code", SNIPPETS)
def test_python_in_the_docs_runs(code: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    # A database of MLflow's takes longer to make than all the rest.
    monkeypatch.setattr(driver, "create_tracker", lambda *_: NoopTracker())
    exec(compile(code, "snippet", "exec"), {})
