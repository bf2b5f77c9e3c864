import numpy as np
import torch
from PIL import Image

from itpn_ray.evaluation.mistakes import MOST, Mistakes

NAMES = ["a", "b", "$\n$"]


def images(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 8, 8)


def test_the_surest_mistakes_come_first() -> None:
    mistakes = Mistakes()
    logits = torch.tensor([[9.0, 0, 0], [0, 1.0, 0], [0, 0, 4.0], [torch.nan, 0, 0]])
    for first in (0, 10):
        ids = torch.arange(4) + first
        mistakes.update(images(4), logits, torch.tensor([0, 0, 1, 2]), ids)
    assert [m.sample_id for m in mistakes.worst] == [2, 12, 1, 11]
    worst = mistakes.worst[0]
    assert (worst.label, worst.answer) == (1, 2)
    assert worst.score == float(logits[2].softmax(0)[2])
    assert worst.image.unique().tolist() == [2]


def test_only_so_many_are_kept_whatever_the_batches() -> None:
    scores = torch.rand(500, generator=torch.Generator().manual_seed(0))
    logits = torch.stack([torch.zeros(500), 1 + scores, torch.zeros(500)], 1)
    labels, ids = torch.zeros(500, dtype=torch.long), torch.arange(500)
    found = []
    for size in (500, 7):
        mistakes = Mistakes()
        for part in torch.arange(500).split(size):
            mistakes.update(images(8)[part % 8], logits[part], labels[part], ids[part])
        found.append([m.sample_id for m in mistakes.worst])
    assert found[0] == found[1] == scores.argsort(descending=True, stable=True)[:MOST].tolist()


def test_the_sheet_shows_each(tmp_path) -> None:
    mistakes = Mistakes()
    mistakes.update(images(2) + 200, torch.eye(3)[1:], torch.tensor([0, 0]), torch.arange(2))
    sheet = np.asarray(Image.open(mistakes.draw(NAMES, tmp_path / "new" / "sheet.png")))
    assert {200, 201} <= set(sheet[..., 0].flatten().tolist())
