from __future__ import annotations

import json
from pathlib import Path

from itpn_ray.data.store.shards import open_dataset
from itpn_ray.models import save_model
from itpn_ray.reproduction.ablations import ITPN
from itpn_ray.reproduction.config import ReproduceConfig
from itpn_ray.reproduction.grid import Cell, Step, Table
from itpn_ray.reproduction.plan import plan
from itpn_ray.reproduction.speeds import speeds
from itpn_ray.runs.folder import EXPORT
from itpn_ray.training.claim import run_folder
from tests.models.nets import classifier


def test_the_last_networks_of_a_table_are_timed_in_turn(prepared: str, tmp_path: Path) -> None:
    table = Table(
        title="two ratios",
        source="a test",
        held="all else",
        cells=tuple(
            Cell(
                row=f"r = {ratio}",
                column="top-1",
                steps=(
                    ITPN,
                    Step(verb="finetune", recipe="itpn_base", changes={"model.migration": ratio}),
                ),
                metric="top1",
            )
            for ratio in (0.0, 0.4)
        ),
        timed=True,
    )
    config = ReproduceConfig(tables=("fig5",), data=prepared, out=str(tmp_path), seeds=1)
    cells = list(plan(table, config).cells)
    classes = list(open_dataset(prepared, "val").classes)
    for planned in cells:
        network = classifier(num_classes=len(classes))
        names = {"classes": json.dumps(classes), "task": "classification"}
        save_model(network, run_folder(planned.runs[0][-1].config) / EXPORT, names)
    found = speeds(cells, tmp_path)
    assert len(found) == 2
    assert all(one.as_row()["images_per_s"] > 0 for one in found)
