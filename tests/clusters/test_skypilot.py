"""clusters/skypilot.yaml against fields of SkyPilot 0.14, and its script in a stand-in for it."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from itpn_ray.arguments import check
from itpn_ray.cli import VERBS

FILE = Path(__file__).parents[2] / "clusters" / "skypilot.yaml"
RESOURCES = {
    "accelerators": str,
    "use_spot": bool,
    "image_id": str,
    "disk_size": int,
    "job_recovery": {"strategy": str, "max_restarts_on_errors": int},
}
TASK = {
    "name": str,
    "num_nodes": int,
    "resources": {**RESOURCES, "any_of": [RESOURCES]},
    "envs": {"*": str},
    "secrets": {"*": type(None)},
    "run": str,
}
"""Those of SkyPilot's fields that the file has: its parser takes the file, and no other field."""


def load() -> dict[str, Any]:
    text = Template(FILE.read_text()).safe_substitute(IMAGE="registry.example/itpn-ray:1")
    return yaml.safe_load(text)


def check_fields(value: Any, wanted: Any, where: str) -> None:
    if isinstance(wanted, list):
        for index, one in enumerate(value):
            check_fields(one, wanted[0], f"{where}[{index}]")
    elif isinstance(wanted, dict):
        for key, inner in value.items():
            assert key in wanted or "*" in wanted, f"{where}.{key} is no field of SkyPilot's"
            check_fields(inner, wanted.get(key, wanted.get("*")), f"{where}.{key}")
    else:
        assert type(value) is wanted, f"{where} = {value!r}"


def test_skypilot_has_every_field() -> None:
    check_fields(load(), TASK, "task")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("resourcez",), {}),
        (("resources", "use_spott"), True),
        (("resources", "any_of", 0, "acceleratorz"), "L4:1"),
        (("num_nodes",), "2"),
    ],
)
def test_a_wrong_field_would_be_found(path: tuple[Any, ...], value: Any) -> None:
    task = copy.deepcopy(load())
    place = task
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(AssertionError, match=str(path[-1])):
        check_fields(task, TASK, "task")


def test_the_token_is_nowhere_in_the_file_and_spot_comes_first() -> None:
    task = load()
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    markets = [choice["use_spot"] for choice in task["resources"]["any_of"]]
    assert markets == sorted(markets, reverse=True)
    assert set(markets) == {True, False}


RAY = """#!/bin/bash
echo "ray $*" >> "$NOTES"
case "$1 $2" in
    "start --head") exec sleep 60 ;;
    # A head answers once it has started; here the other node's does at once.
    "status --address") [[ $SKYPILOT_NODE_RANK == 1 ]] || grep -q "ray start --head" "$NOTES" ;;
esac
"""
ITPN_RAY = """#!/bin/bash
echo "itpn-ray $* on $RAY_ADDRESS" >> "$NOTES"
exit 3
"""


@pytest.mark.parametrize(("rank", "code"), [("0", 3), ("1", 0)])
def test_each_node_does_its_part(tmp_path: Path, rank: str, code: int) -> None:
    for name, text in {"ray": RAY, "itpn-ray": ITPN_RAY}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    task = load()
    environment = {
        **os.environ,
        **task["envs"],
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "RAY_AUTH_TOKEN": "canary-token-0123456789",
        "SKYPILOT_NODE_IPS": "192.0.2.1\n192.0.2.2",
        "SKYPILOT_NODE_RANK": rank,
        "SKYPILOT_NUM_GPUS_PER_NODE": "4",
    }
    done = subprocess.run(
        ["bash", "-c", task["run"]], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    said = (tmp_path / "notes").read_text()
    assert "canary" not in said + done.stdout + done.stderr
    if rank == "1":
        assert "ray start --block --address 192.0.2.1:6379 --num-gpus 4" in said
        return
    assert "ray start --head --block --port 6379 --num-gpus 4" in said
    assert "ray stop" not in said  # it would end SkyPilot's own Ray too
    (line,) = re.findall(r"itpn-ray (.+) on 192\.0\.2\.1:6379", said)
    verb, *words = line.split()
    check(VERBS[verb][0], words)
