"""The other machines of a cluster: which of this one's files they see, and files sent to them.

A private Ray has one machine, and nothing is to be asked or sent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from itpn_ray.errors import ConfigError
from itpn_ray.storage import is_s3
from itpn_ray.storage.scratch import private_folder
from itpn_ray.storage.uri import local_path

ANSWER_S = 60.0
"""Seconds in which a node must say what it sees."""
SHARED = "or a folder that all machines mount"


def other_nodes() -> dict[str, str]:
    """Id -> address of the living nodes but this one."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    }


def ask(nodes: Mapping[str, str], question: Callable[[], bool]) -> dict[str, bool]:
    """What each node answers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # No CPU, for training may hold them all; no retry, for a lost node is an answer.
    task = ray.remote(question).options(num_cpus=0, max_retries=0)
    answers = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote()
        for node in nodes
    }
    found = ray.get(list(answers.values()), timeout=ANSWER_S)
    return dict(zip(answers, found, strict=True))


def require_seen(field: str, place: str, path: str, hint: str) -> None:
    """Refuse a file of this machine that another one of the cluster does not see.

    Args:
        field: the setting that names the place.
        place: what it says.
        path: of a file there, absolute.
        hint: where else it could be; `SHARED` follows.

    Raises:
        ConfigError: names the setting, and the machine.
    """
    nodes = other_nodes()
    for node, seen in ask(nodes, lambda: os.path.exists(path)).items() if nodes else ():
        if not seen:
            raise ConfigError(
                field,
                place,
                f"is a folder of this machine, which {nodes[node]} does not see",
                f"{hint}, {SHARED}",
            )


@contextmanager
def shared_folder(field: str, place: str, folder: str, hint: str) -> Iterator[str]:
    """Refuse a folder to write to that another machine does not see.

    Args:
        field: the setting that names the place.
        place: what it says.
        folder: a path, or a URI, which is seen everywhere.
        hint: see `require_seen`.

    Yields:
        A file in it that is there for the length of the ``with`` block, for machines that join
        meanwhile; empty where nothing is to be looked for.

    Raises:
        ConfigError: see `require_seen`.
    """
    if is_s3(folder) or not other_nodes():
        yield ""
        return
    # A file that cannot have been there: another machine may have a folder of the same name.
    token = Path(local_path(folder)) / f".seen-{secrets.token_hex(8)}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        require_seen(field, place, str(token), hint)
        yield str(token)
    finally:
        token.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shipped:
    """A local file of the driver's, for workers on machines that have no such file.

    Attributes:
        name: of the file.
        sha256: of its content, hex.
        content: reference to it in Ray's object store, uint8 (bytes,).
    """

    name: str
    sha256: str
    content: Any

    def here(self) -> str:
        """A copy on this machine, shared by its workers; one that is there already is taken.

        Raises:
            ConfigError: its folder is somebody else's.
        """
        import ray

        folder = private_folder("itpn_ray_shipped") / self.sha256[:16]
        target = folder / self.name
        if not target.is_file() or _digest(target) != self.sha256:
            folder.mkdir(parents=True, exist_ok=True)
            # Several workers of a machine may write it at once; each replaces a whole file.
            part = target.with_name(f".{target.name}.{os.getpid()}")
            ray.get(self.content).tofile(part)
            part.replace(target)
        return str(target)


def ship(named: str) -> Shipped | None:
    """A local file, put into Ray's object store once; None where workers read it by its name."""
    if not named or is_s3(named) or not other_nodes():
        return None
    import ray

    path = Path(local_path(named))
    # Mapped, so that the file is copied into the object store once and never into this process.
    content = np.memmap(path, dtype=np.uint8, mode="r")
    return Shipped(name=path.name, sha256=_digest(path), content=ray.put(np.asarray(content)))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
