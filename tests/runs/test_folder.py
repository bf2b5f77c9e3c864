"""Folders that are made anew: nothing of what lay in them is taken for new."""

from __future__ import annotations

import json
from pathlib import Path

from itpn_ray.runs.folder import renew


def test_nothing_of_an_earlier_evaluation_stays(tmp_path: Path) -> None:
    settings = {"weights": "a", "migration": [0.0]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    written = (
        *("metrics.jsonl", "results.json", "detections_r0.4.json", "task1_r0.2/Task1_ship.txt"),
        *("features.parquet", "unreadable.csv", "plots/masks.png", "status/rank-0.json"),
    )
    for name in (*written, "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("earlier")
    assert renew(tmp_path, {**settings, "weights": "b"}, command="") == "a"
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"config.json", "notes.txt"}
    assert not (tmp_path / "task1_r0.2").exists()
