"""What checkpoints and leases withstand, as a table: damage, full disk, kills, a flaky S3.

    python benchmarks/checkpoint_faults.py

Takes about two minutes on two cores; needs the test extras (moto, for an S3 server).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import torch
from moto.server import ThreadedMotoServer

from itpn_ray.commands.chaos.faults import FlakyServer, full_disk, kill
from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.runs.lease import Lease
from itpn_ray.storage import open_store
from itpn_ray.training.checkpoint.state_files import state_digest
from itpn_ray.training.checkpoint.writer import CheckpointStore

REFUSED = 0.3
KILLS = 20
OBJECTS = 100


def state_at(step: int, size: int = 20_000) -> dict:
    """A state that follows from the step, so that a reader can tell a mixed one."""
    draw = torch.Generator().manual_seed(step)
    return {
        "network": {f"weight{i}": torch.randn(size, generator=draw) for i in range(4)},
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": []},
        "progress": {"step": step},
    }


def row(name: str, result: str) -> None:
    print(f"{name:<58} {result}", flush=True)


def damages(content: bytes) -> dict[str, bytes | None]:
    """One byte flipped, cut and removed versions of a file; ``None``: no file."""
    at = random.randrange(len(content))
    flipped = content[:at] + bytes([content[at] ^ (1 << random.randrange(8))]) + content[at + 1 :]
    cut = content[: random.randrange(len(content))]
    return {"flipped": flipped, "cut by one": content[:-1], "cut": cut, "missing": None}


def damage(folder: Path, rounds: int = 10) -> None:
    store = CheckpointStore(str(folder))
    for step in (1, 2):
        store.save(step, state_at(step), background=False)
    found = named = used = tries = 0
    for path in sorted((folder / "step-000000002").iterdir()):
        content = path.read_bytes()
        for _ in range(rounds):
            for changed in damages(content).values():
                path.unlink()
                if changed is not None:
                    path.write_bytes(changed)
                good = CheckpointStore(str(folder)).latest_good()
                tries += 1
                found += bool(good.problems)
                named += any(path.name in problem for problem in good.problems)
                used += state_digest(good.load()) == state_digest(state_at(1))
                path.write_bytes(content)
    row("damage in each file (flip, cut, missing): found", f"{found}/{tries}")
    row("    file named", f"{named}/{tries}")
    row("    previous checkpoint used, bit-equal", f"{used}/{tries}")


def disk(folder: Path) -> None:
    store = CheckpointStore(str(folder))
    store.save(1, state_at(1), background=False)
    before = {p for p in folder.rglob("*") if p.is_file()}
    try:
        with full_disk(os.getpid(), 50_000):
            store.save(2, state_at(2), background=False)
    except CheckpointError as error:
        row("full disk: message", str(error).split(": ", 1)[1])
    stray = {p for p in folder.rglob("*") if p.is_file()} - before
    good = state_digest(store.latest_good().load()) == state_digest(state_at(1))
    row("    stray files; last good one loads", f"{len(stray)}; {good}")


def _save_on_and_on(uri: str) -> None:
    store = CheckpointStore(uri)
    latest = store.latest_good()
    step = latest.step if latest else 0
    while True:
        step += 1
        store.save(step, state_at(step))


def kills(folder: Path) -> None:
    whole = 0
    for _ in range(KILLS):
        process = multiprocessing.get_context("fork").Process(
            target=_save_on_and_on, args=(str(folder),)
        )
        begun = CheckpointStore(str(folder)).steps()[-1:]
        process.start()
        while CheckpointStore(str(folder)).steps()[-1:] == begun:
            time.sleep(0.005)
        time.sleep(random.random() * 0.2)
        kill(process.pid)
        process.join()
        good = CheckpointStore(str(folder)).latest_good()
        whole += state_digest(good.load()) == state_digest(state_at(good.step))
    row("kill -9 while saves follow one another: newest is whole", f"{whole}/{KILLS}")


def flaky_objects(server: str, uri: str) -> None:
    with FlakyServer(server, refuse=REFUSED) as flaky:
        os.environ["AWS_ENDPOINT_URL_S3"] = flaky.url
        store = open_store(f"{uri}/objects")

        def there_and_back(i: int) -> bool:
            content = random.Random(i).randbytes(10_000)
            store.write_bytes(f"{i}", content)
            return store.read_bytes(f"{i}") == content

        with ThreadPoolExecutor(16) as pool:
            arrived = sum(pool.map(there_and_back, range(OBJECTS)))
    share = flaky.counts["refused"] / flaky.counts.total()
    row(f"S3 with {share:.0%} of requests refused: objects", f"{arrived}/{OBJECTS}")


def flaky_checkpoints(server: str, uri: str, saves: int = 10) -> None:
    uri = f"{uri}/checkpoints"
    with FlakyServer(server, refuse=REFUSED, lose=0.05, cut=0.05) as flaky:
        os.environ["AWS_ENDPOINT_URL_S3"] = flaky.url
        done = threading.Event()

        def watch() -> tuple[int, int]:
            partial = reads = 0
            reader = CheckpointStore(uri)
            while not done.is_set():
                good = reader.latest_good()
                if good is not None:
                    reads += 1
                    whole = state_digest(good.load()) == state_digest(state_at(good.step))
                    partial += bool(good.problems) or not whole
            return partial, reads

        with ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(watch)
            store = CheckpointStore(uri, keep_last=saves)
            for step in range(1, saves + 1):
                store.save(step, state_at(step))
            store.wait()
            done.set()
            partial, reads = watcher.result()
        row(
            "    checkpoints, 5 % of answers lost and 5 % cut as well",
            f"{len(store.steps())}/{saves}",
        )
        row("    partial commits seen by a reader beside it", f"{partial} in {reads} reads")


def leases(folder: Path, uri: str) -> None:
    for name, place in (("local", str(folder)), ("S3", uri)):
        with Lease(place, name="run"):
            begin = time.perf_counter()
            try:
                Lease(place, name="run").acquire()
            except ConfigError:
                seconds = time.perf_counter() - begin
                row(f"second driver of one name, {name}", f"refused after {seconds:.2f} s")
            else:
                row(f"second driver of one name, {name}", "LET IN")


def main() -> None:
    random.seed(0)
    logging.getLogger("itpn_ray").setLevel(logging.ERROR)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        damage(folder / "damage")
        disk(folder / "disk")
        kills(folder / "kills")
        flaky_objects(address, "s3://bucket")
        flaky_checkpoints(address, "s3://bucket")
        os.environ["AWS_ENDPOINT_URL_S3"] = address
        leases(folder / "lease", "s3://bucket/lease")
    server.stop()


if __name__ == "__main__":
    main()
