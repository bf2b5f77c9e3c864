import pytest

from itpn_ray.errors import ConfigError, told_by


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "field: is wrong. Fix it."),
        (-1.0, "field = -1.0: is wrong. Fix it."),
        (0.1 + 0.2, "field = 0.3: is wrong. Fix it."),
        (1e-12 / 3, "field = 3.33333e-13: is wrong. Fix it."),
        ([], "field = none: is wrong. Fix it."),
        ((), "field = none: is wrong. Fix it."),
        ("", "field = '': is wrong. Fix it."),
        (0, "field = 0: is wrong. Fix it."),
        (["a"], "field = ['a']: is wrong. Fix it."),
    ],
)
def test_values_are_written_for_people(value: object, shown: str) -> None:
    assert str(ConfigError("field", value, "is wrong", "Fix it")) == shown


def test_an_error_without_a_text_is_told_by_its_type() -> None:
    assert told_by(OSError()) == "OSError"
    assert told_by(ValueError("\n"), -1) == "ValueError"
    assert told_by(ValueError("first\nlast\n")) == "first"
    assert told_by(ValueError("first\nlast\n"), -1) == "last"
