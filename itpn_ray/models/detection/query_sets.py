"""What is predicted for queries, one set a layer: as detectors and segmenters with queries have it.

Shapes: K sets of predictions (layers), B images, Q queries.
"""

from __future__ import annotations

import dataclasses
from typing import Self

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuerySets:
    """The base of K sets of predictions for the same queries: every field is (K, B, Q, ...)."""

    def before(self, query: int) -> Self:
        """Those for the queries before number `query`."""
        return self._of(slice(query))

    def since(self, query: int) -> Self:
        """Those for the queries from number `query` on."""
        return self._of(slice(query, None))

    def _of(self, part: slice) -> Self:
        found: dict[str, Tensor | None] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        return dataclasses.replace(
            self,
            **{name: None if it is None else it[:, :, part] for name, it in found.items()},
        )
