from __future__ import annotations

import ast
from pathlib import Path

import pytest

import itpn_ray.models as package


def test_every_public_name_can_be_imported_from_where_it_is_said_to_live():
    tree = ast.parse(Path(package.__file__).read_text())
    declared = {
        alias.name: node.module.removeprefix("itpn_ray.models.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert declared == package._HOME_OF
    assert sorted(package.__all__) == sorted(declared)
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="oracle"):
        package.oracle  # noqa: B018
