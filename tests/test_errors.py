import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import itpn_ray
from itpn_ray import errors
from itpn_ray.errors import ConfigError, ItpnError, told_by

PACKAGE = Path(itpn_ray.__file__).parent
KINDS = {
    name
    for name, one in vars(errors).items()
    if isinstance(one, type) and issubclass(one, ItpnError)
}


def hints(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first words of each hint that is written in a source file's errors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and len(node.args) == 4:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            hint = node.args[3]
            first = hint.values[0] if isinstance(hint, ast.JoinedStr) else hint
            if name in KINDS and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def test_hints_are_sentences() -> None:
    found = [(p.name, *one) for p in sorted(PACKAGE.rglob("*.py")) for one in hints(p)]
    assert len(found) > 100
    assert [(name, line, hint) for name, line, hint in found if hint[:1].islower()] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "field: is wrong. Fix it."),
        (-1.0, "field = -1.0: is wrong. Fix it."),
        (b"{broken", "field = b'{broken': is wrong. Fix it."),
        (b"x" * 10**6, f"field = b'{'x' * 198} ... {'x' * 199}': is wrong. Fix it."),
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
