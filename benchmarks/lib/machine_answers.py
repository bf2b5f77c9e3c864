"""What lies under a URI, for whoever cannot reach it: ``python -m ... QUESTION URI`` prints JSON.

Run on a machine of `benchmarks.lib.machines`, whose network this one is not part of.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from itpn_ray.runs.folder import CHECKPOINTS, EXPORT
from itpn_ray.runs.journal import EVENTS, RESULTS, STATUS
from itpn_ray.storage import join, open_store


def bucket(uri: str) -> None:
    """Make the bucket, once its server answers."""
    from itpn_ray.storage.s3 import S3Store

    store = S3Store(uri)
    store._s3.create_bucket(Bucket=store.bucket)


def images(uri: str) -> None:
    """Put drawn images there, as they are and prepared."""
    from benchmarks.lib.drawn import prepared_images

    store = open_store(uri)
    with tempfile.TemporaryDirectory() as folder:
        prepared_images(Path(folder), train=256, val=32)
        for path in (path for path in Path(folder).rglob("*") if path.is_file()):
            store.put_file(path, path.relative_to(folder).as_posix())


def keys(uri: str) -> list[str]:
    """All keys."""
    return open_store(uri).list()


def secrets(uri: str) -> list[str]:
    """Keys of objects that hold a secret."""
    store = open_store(uri)
    return [key for key in store.list() if b"canary" in store.read_bytes(key)]


def digest(uri: str) -> dict[str, Any]:
    """Step and SHA-256 of weights, averages and moments of a run's newest checkpoint."""
    from itpn_ray.training.checkpoint.state_files import state_digest
    from itpn_ray.training.checkpoint.writer import CheckpointStore

    checkpoint = CheckpointStore(join(uri, CHECKPOINTS)).latest_good()
    assert checkpoint is not None
    found = state_digest(checkpoint.load("network", "optimizer"))
    return {"step": checkpoint.step, "sha256": found}


def events(uri: str) -> list[dict[str, Any]]:
    """The events of a run."""
    lines = open_store(uri).read_bytes(EVENTS).decode().splitlines()
    return [json.loads(line) for line in lines]


def trials(uri: str) -> list[dict[str, Any]]:
    """The trials of a sweep that have an evaluation: host of the last worker, steps resumed from.

    Raises:
        FileNotFoundError: the weights of one are missing.
    """
    store = open_store(uri)
    found = json.loads(store.read_bytes(RESULTS))["trials"]
    answer = []
    for name in (one["trial"] for one in found if "front" in one):
        place = f"trials/{name}"
        assert store.exists(f"{place}/{EXPORT}"), f"{name} has no weights"
        status = json.loads(store.read_bytes(f"{place}/{STATUS}/rank-0.json"))
        resumed = [one["step"] for one in events(join(uri, place)) if one["event"] == "resume"]
        answer.append({"trial": name, "host": status["host"], "resumed": resumed})
    return answer


QUESTIONS = {one.__name__: one for one in (bucket, images, keys, secrets, digest, events, trials)}

if __name__ == "__main__":
    print(json.dumps(QUESTIONS[sys.argv[1]](sys.argv[2])))
