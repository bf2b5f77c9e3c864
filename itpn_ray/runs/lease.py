"""A lease on a run's name: one driver at a time, on whatever machine.

The lease is a series of small objects ``lease/000000001.json``, ``...2.json``: the highest number
is in force. Taking it over means creating the next number, which the store grants to one caller
only; the highest number is never deleted, so nobody can be granted it twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import secrets
import threading
import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType

import psutil

from itpn_ray.errors import ConfigError, RunError
from itpn_ray.storage import ObjectStore, open_store

_LOG = logging.getLogger(__name__)
_FOLDER = "lease/"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease: times are in seconds since 1970."""

    token: str
    host: str
    machine: str
    pid: int
    started: float
    beat: float
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """The process at hand."""
        return cls(
            token=secrets.token_hex(8),
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            beat=time.time(),
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is on another machine: nothing is known of it but its signs of life."""
        return self.machine != _machine()

    def runs_here(self) -> bool:
        """Whether it is a living process of this machine."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            # The start time tells a process from a later one that was given the same number; it
            # wanders by seconds when the machine's clock is corrected.
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and abs(process.create_time() - self.started) < 60
        return False


class Lease:
    """Held by the driver of a run from `acquire` to `release`; also a context manager.

    Args:
        uri: the run's folder, local or ``s3://``.
        name: of the run, for messages.
        heartbeat: seconds between signs of life.
        stale_after: seconds without one, by the store's clock, after which a holder on another
            machine is watched for three heartbeats, and counts as dead if it gives none.
    """

    def __init__(
        self, uri: str, *, name: str, heartbeat: float = 10.0, stale_after: float = 60.0
    ) -> None:
        self._store: ObjectStore = open_store(uri)
        self._name = name
        self._heartbeat, self._stale_after = heartbeat, stale_after
        self._holder = Holder.here()
        self._number = 0
        self._lost: Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease, from a dead holder too, and keep it by signs of life.

        Raises:
            ConfigError: another driver holds it, or the place cannot be written.
        """
        try:
            number, holder = self._current()
            if holder is not None and self._lives(number, holder):
                raise self._refusal(number, holder)
            self._holder = replace(self._holder, beat=time.time())
            self._store.put_if_absent(_key(number + 1), self._content())
            # Read back, for a retried request may hide who was first.
            current, winner = self._current()
            if winner is None or winner.token != self._holder.token:
                raise self._refusal(current, winner or self._holder)
            self._number = current
            for old in self._numbers():
                # Never the highest number: whoever lists the store meanwhile must find it.
                if old < current:
                    self._store.delete(_key(old))
        except OSError as error:
            raise ConfigError(
                "run", self._name, f"its lease cannot be written: {error}", "Fix the storage"
            ) from error
        if holder is not None and not holder.released:
            _LOG.warning("took the run over from process %d on %s", holder.pid, holder.host)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Whether the lease still holds; call it now and then.

        Raises:
            RunError: another driver took the run over, for this one gave no sign of life.
        """
        if self._lost is not None:
            raise RunError(
                "run",
                self._name,
                f"was taken over by process {self._lost.pid} on {self._lost.host}",
                "Leave the run to it, or stop it and repeat the command",
            )

    def confirm(self) -> None:
        """As `check`, but asks the store: a machine that was cut off may not have found out yet.

        Raises:
            RunError: see `check`.
            OSError: the store does not answer.
        """
        _, holder = self._current()
        if holder is None or holder.token != self._holder.token:
            self._lost = holder or self._holder
        self.check()

    def release(self) -> None:
        """Give the lease back, if it is still held."""
        # First, or the thread would give one more sign of life after the release.
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            _, holder = self._current()
            if holder is not None and holder.token == self._holder.token:
                self._holder = replace(self._holder, released=True)
                self._store.write_bytes(_key(self._number), self._content())
        except OSError as error:
            _LOG.warning("the lease could not be given back and will lapse: %s", error)

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self._stop.wait(self._heartbeat):
            try:
                _, holder = self._current()
                if holder is None or holder.token != self._holder.token:
                    self._lost = holder or self._holder
                    return
                self._holder = replace(self._holder, beat=time.time())
                self._store.write_bytes(_key(self._number), self._content())
            except OSError as error:
                # Tried again at the next beat; whoever takes over meanwhile is found then.
                _LOG.warning("no sign of life could be given: %s", error)

    def _lives(self, number: int, holder: Holder) -> bool:
        """Whether a holder is to be taken for alive; watches one that has long been silent.

        The store may have been away as long, and a living holder gives a sign as soon as it is
        back. No clock of another machine is asked: it may be wrong.
        """
        if holder.released:
            return False
        if not holder.is_elsewhere:
            return holder.runs_here()
        if self._age(number) < self._stale_after:
            return True
        _LOG.warning("watching whether process %d on %s still lives", holder.pid, holder.host)
        # Three beats: one may be late, and one lost.
        end = time.monotonic() + 3 * self._heartbeat
        while time.monotonic() < end:
            time.sleep(self._heartbeat / 2)
            now = self._current()
            # A sign of life, or somebody else has taken over.
            if now != (number, holder):
                return now[1] is not None and self._lives(now[0], now[1])
        return False

    def _age(self, number: int) -> float:
        """Seconds since the last sign of life, by the store's clock."""
        try:
            return self._store.age(_key(number))
        except FileNotFoundError:  # replaced this moment
            return 0.0

    def _numbers(self) -> list[int]:
        keys = self._store.list(_FOLDER)
        return sorted(int(key.removeprefix(_FOLDER).removesuffix(".json")) for key in keys)

    def _current(self) -> tuple[int, Holder | None]:
        numbers = self._numbers()
        if not numbers:
            return 0, None
        key = _key(numbers[-1])
        try:
            return numbers[-1], Holder(**json.loads(self._store.read_bytes(key)))
        except FileNotFoundError:  # replaced between the two requests
            return self._current()
        except (ValueError, TypeError) as error:
            raise ConfigError(
                "run",
                self._name,
                f"its lease {self._store.uri}/{key} is unreadable",
                "Delete that file if no other process works on this run",
            ) from error

    def _content(self) -> bytes:
        return json.dumps(asdict(self._holder)).encode()

    def _refusal(self, number: int, holder: Holder) -> ConfigError:
        age = self._age(number)
        return ConfigError(
            "run",
            self._name,
            f"is in use by process {holder.pid} on {holder.host} (sign of life {age:.0f} s ago)",
            f"Choose another run name, or stop that process and repeat the command: on its own "
            f"machine at once, elsewhere {self._stale_after:.0f} s later",
        )


def _key(number: int) -> str:
    return f"{_FOLDER}{number:09d}.json"


def _machine() -> str:
    """A name for what can see the same processes: host, since its boot, container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux only; elsewhere the host's name must do
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        # Containers have process numbers of their own.
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
