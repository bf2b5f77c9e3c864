import pytest
import torch
from sklearn.linear_model import LogisticRegression

from itpn_ray.evaluation.probe import fit_logistic, linear_probe, pixel_probe


def blobs(count: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, 12, generator=generator), labels


def test_the_fit_is_scikit_learns() -> None:
    inputs, labels = blobs(120, 1.0, seed=1)
    weights = fit_logistic(inputs.double(), labels, 4, strength=0.05)
    reference = LogisticRegression(C=1 / (0.05 * 120), tol=1e-8, max_iter=1000)
    reference.fit(inputs.numpy(), labels.numpy())
    assert torch.allclose(weights[:-1].T, torch.tensor(reference.coef_).double(), atol=2e-3)


def test_classes_that_lie_apart_are_found() -> None:
    assert linear_probe(*blobs(200, 0.1, seed=1), *blobs(100, 0.1, seed=2)) == 1.0


def test_noise_is_not_learned() -> None:
    inputs, _ = blobs(300, 1.0, seed=1)
    generator = torch.Generator().manual_seed(5)
    labels, others = (torch.randint(4, (300,), generator=generator) for _ in range(2))
    assert linear_probe(inputs, labels, inputs.flip(0), others) < 0.4


def test_inputs_that_never_change_do_no_harm() -> None:
    train, labels = blobs(100, 0.1, seed=1)
    val, val_labels = blobs(50, 0.1, seed=2)
    train[:, 3] = 7.0
    assert linear_probe(train, labels, val, val_labels) == 1.0


def make_images(
    count: int, size: int, seed: int, *, shifted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes: upright or lying bars, at one place or anywhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(60, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        place = int(torch.randint(size - 8, (1,), generator=generator)) if shifted else size // 2
        bar = image[:, :, place : place + 8] if label else image[:, place : place + 8]
        bar += 150
    return images, labels


@pytest.mark.parametrize("size", [24, 64])
def test_pixels_tell_what_has_its_place(size: int) -> None:
    train = make_images(120, size, 1, shifted=False)
    val = make_images(60, size, 2, shifted=False)
    assert pixel_probe(*train, *val) == 1.0


def test_the_answer_is_repeatable() -> None:
    train, val = make_images(80, 32, 1, shifted=True), make_images(60, 32, 2, shifted=True)
    assert pixel_probe(*train, *val) == pixel_probe(*train, *val)
