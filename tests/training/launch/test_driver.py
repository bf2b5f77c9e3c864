"""What the driver says of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.models import LoadReport
from itpn_ray.terminal.console import Console
from itpn_ray.training.launch import driver
from tests.data.made import write_dataset
from tests.training.runs import classification


def test_a_resumed_run_does_not_tell_of_initial_weights_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = LoadReport(
        loaded=("a",), resized=(), missing=(), mismatched=(), unexpected=(), fraction=1.0
    )

    def not_trained(*given: Any) -> None:
        del given

    monkeypatch.setattr(driver, "preflight", lambda config: report)
    monkeypatch.setattr(driver, "_train", not_trained)
    data = write_dataset(tmp_path / "set", {"train": [10, 10], "val": [2, 2]})
    config = classification(data, tmp_path / "out")
    said = []
    for _ in range(2):
        stream = io.StringIO()
        driver.run(config, command="finetune", console=Console(stream=stream))
        said.append(stream.getvalue())
    assert "loaded 1 tensor (100.0%)" in said[0]
    assert "loaded" not in said[1]
