"""One Ray head with a job server for all tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.head import Head, start_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with start_head() as started:
        yield started
