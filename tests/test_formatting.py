import pytest

from itpn_ray.formatting import number_of, show_names, wilson, with_certainty


@pytest.mark.parametrize(
    ("hits", "count", "expected"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_published_intervals(hits: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson(hits / count, count) == pytest.approx(expected, abs=5e-5)


def test_the_ends() -> None:
    assert wilson(1.0, 20)[1] == 1.0
    assert wilson(0.5, 0) == (0.0, 1.0)
    low, high = wilson(0.8, 1_000_000)
    assert high - low < 0.002


def test_a_row_says_how_sure_its_figures_are() -> None:
    speed = {"images_per_s": 400.0, "images_per_s_low": 388.2, "images_per_s_high": 409.0}
    row = {"migration": 0.0, "top1": 0.8, "loss": 0.6, **speed, "timings": 7}
    assert list(with_certainty(row, 480).items()) == [
        ("migration", 0.0),
        ("top1", 0.8),
        ("top-1, 95 %", "76.2 to 83.3 %"),
        ("loss", 0.6),
        ("images_per_s", 400.0),
        ("spread", "388 to 409, n = 7"),
    ]
    assert with_certainty({"top1": 0.8, "error": "died"}) == {"top1": 0.8, "error": "died"}


@pytest.mark.parametrize(
    ("count", "names", "told"),
    [
        (0, ("shard", ""), "0 shards"),
        (1, ("shard", ""), "1 shard"),
        (3068, ("image", ""), "3,068 images"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_one_thing_is_told_in_the_singular(count: int, names: tuple[str, str], told: str) -> None:
    assert number_of(count, *names) == told


def test_names_that_are_left_out_are_counted() -> None:
    assert show_names(["cat", "dog"], 2) == "cat, dog"
    assert show_names(list("abcde"), 2) == "a, b and 3 more"
