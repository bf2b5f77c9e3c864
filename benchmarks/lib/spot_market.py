"""Ray nodes on this machine from a market of spot machines that can run dry."""

from __future__ import annotations

import os
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

DRY = "SPOT_MARKET_DRY"
"""Environment variable: a file; while it exists there is no spot machine to be had."""


class SpotMarket(FakeMultiNodeProvider):
    """Starts nodes as processes of this machine; nodes labelled as spot only while there are any.

    Raises:
        RuntimeError: on a request while the market is dry, as a cloud answers it.
    """

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """Start ``count`` nodes of a type, or none."""
        if labels.get("market") == "spot" and os.path.exists(os.environ[DRY]):
            raise RuntimeError("the spot market has no such machine at the moment")
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
