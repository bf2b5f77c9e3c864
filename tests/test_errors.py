import pytest

from itpn_ray.errors import ConfigError


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
