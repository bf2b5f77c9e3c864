from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itpn_ray.data.annotations.json_stream import stream_object


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=20,
        ),
    ),
    st.sampled_from([None, 1]),
)
def test_json_by_the_piece_is_the_same(value: dict[str, Any], indent: int | None) -> None:
    class Slow(io.BytesIO):
        """Gives a byte or two at a time, so that every place is a cut once."""

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(2)

    found: dict[str, Any] = {key: [] for key, inner in value.items() if inner == []}
    for key, inner in stream_object(Slow(json.dumps(value, indent=indent).encode())):
        if isinstance(value[key], list):
            found.setdefault(key, []).append(inner)
        else:
            found[key] = inner
    assert found == value


@pytest.mark.parametrize("text", ["", "[1]", '{"a": [1, 2', '{"a": 1', '{"a" 1}', '{"a": [1 2]}'])
def test_what_is_not_json_raises(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own words or ours)
        list(stream_object(io.BytesIO(text.encode())))
