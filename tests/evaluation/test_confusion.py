import numpy as np
import pytest
import torch
from PIL import Image

from itpn_ray.evaluation.confusion import plot_confusion


@pytest.mark.parametrize("classes", [2, 10, 60])
def test_the_image_darkens_where_the_predictions_are(classes: int, tmp_path) -> None:
    names = [f"class {c}" for c in range(classes)]
    right = plot_confusion(torch.eye(classes) * 7, names, tmp_path / "new" / "right.png")
    wrong = plot_confusion(torch.eye(classes).flip(0) * 7, names, tmp_path / "wrong.png")
    first, second = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (right, wrong))
    assert first.shape == second.shape
    assert min(first.shape[:2]) > 200
    assert abs(first - second).max() > 100


def test_a_class_without_images_is_drawn_empty(tmp_path) -> None:
    counts = torch.tensor([[5, 0], [0, 0]])
    assert plot_confusion(counts, ["a", "b"], tmp_path / "c.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["$5 and $10", r"$\frac$", "a_$b^$", "日本", "x" * 200])
def test_any_name_of_a_class_can_be_drawn(name: str, tmp_path) -> None:
    path = plot_confusion(torch.eye(2), [name, "other"], tmp_path / "c.png")
    assert path.stat().st_size > 1000
