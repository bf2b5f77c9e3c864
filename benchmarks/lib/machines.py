"""Several machines on one: an address, a cable, a disk, a host name and processes of their own.

Linux namespaces, so that what works only by sharing a disk or a host name fails here as it would on
a cluster. The machines share the system's files and a read-only checkout. Nothing of this machine's
own network is changed: the bridge that joins them stands in a namespace too. Needs root, iproute2
and util-linux.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

NETWORK = "10.77.0"
DISK_MB = 4096
SPACES = ("--net", "--mount", "--uts", "--pid")
BAD_CABLE = ("python3", "-m", "benchmarks.lib.bad_cable")
SETUP = """
set -e
mount --make-rprivate /
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
mkdir /mnt/checkout
mount --bind {checkout} /mnt/checkout
printf '{hosts}' > /mnt/hosts
mount --bind /mnt/hosts /etc/hosts
mount -t tmpfs -o size={disk}m tmpfs /tmp
mkdir -p {checkout} /tmp/home
mount --bind /mnt/checkout {checkout}
mount -o remount,ro,bind {checkout}
ip link set lo up
exec sh -c 'sleep infinity & wait'
"""


def missing() -> str:
    """What this machine lacks for having others in it; empty: nothing."""
    for tool in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"there is no program {tool}"
    tried = subprocess.run(["unshare", *SPACES, "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces can be made ({tried.stderr.strip()})" if tried.returncode else ""


class Machines:
    """Machines by number, there for the length of a ``with`` block.

    Args:
        count: how many.
        checkout: a folder that all of them see, read-only.
        environment: variables of every command.

    Attributes:
        own: further variables, by machine.
    """

    def __init__(
        self, count: int, checkout: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.count = count
        self.checkout = checkout
        self.environment = dict(environment or {})
        self.own: dict[int, dict[str, str]] = {}
        self._holders: dict[int, subprocess.Popen[bytes]] = {}
        self._started: list[subprocess.Popen[str]] = []

    def address(self, number: int) -> str:
        """The address of a machine."""
        return f"{NETWORK}.{10 + number}"

    def __enter__(self) -> Machines:
        self._yard = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        _wait(lambda: _namespace(self._yard.pid, "net") != _namespace(os.getpid(), "net"))
        self._ip("link", "add", "bridge", "type", "bridge")
        self._ip("link", "set", "bridge", "up")
        for number in range(self.count):
            self.add(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in list(self._holders):
            self.lose(number)
        for process in self._started:
            process.wait()
        self._yard.kill()
        self._yard.wait()

    def add(self, number: int) -> None:
        """A new machine, or one with a new disk in the place of one that was lost."""
        names = [f"{self.address(one)} h{one}" for one in range(self.count)]
        script = SETUP.format(
            name=f"h{number}",
            checkout=self.checkout,
            hosts="\\n".join(["127.0.0.1 localhost", *names, ""]),
            disk=DISK_MB,
        )
        holder = subprocess.Popen(
            ["unshare", *SPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            stderr=subprocess.DEVNULL,
        )
        self._holders[number] = holder
        _wait(lambda: self._pid(number) != 0)
        self._ip(
            "link", "add", f"v{number}", "type", "veth",
            "peer", "name", "e0", "netns", str(self._pid(number)),
        )  # fmt: skip
        self._ip("link", "set", f"v{number}", "master", "bridge", "up")
        _wait(lambda: self.run(number, ["test", "-d", "/tmp/home"]).returncode == 0)
        self.run(number, ["ip", "addr", "add", f"{self.address(number)}/24", "dev", "e0"])
        self.run(number, ["ip", "link", "set", "e0", "up"])

    def has(self, number: int) -> bool:
        """Whether a machine is there."""
        return number in self._holders

    def command(self, number: int, words: Sequence[str]) -> list[str]:
        """A command as it is run on a machine."""
        path = f"{self.checkout}/.venv/bin:{os.environ['PATH']}"
        own = {"HOME": "/tmp/home", "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        variables = own | self.environment | self.own.get(number, {})
        enter = ["nsenter", "--target", str(self._pid(number)), *SPACES]
        assigned = [f"{name}={value}" for name, value in variables.items()]
        return [*enter, "env", "--chdir=/tmp/home", *assigned, *words]

    def run(
        self, number: int, words: Sequence[str], *, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine to its end."""
        return subprocess.run(
            self.command(number, words), capture_output=True, text=True, timeout=timeout
        )

    def start(self, number: int, words: Sequence[str], log: Path) -> subprocess.Popen[str]:
        """Start a command on a machine; what it prints goes to a file of this machine."""
        with log.open("w") as file:
            process = subprocess.Popen(
                self.command(number, words), stdout=file, stderr=file, text=True
            )
        self._started.append(process)
        return process

    def cut(self, number: int) -> None:
        """Pull the cable of a machine."""
        self._ip("link", "set", f"v{number}", "down")

    def heal(self, number: int) -> None:
        """Put the cable back."""
        self._ip("link", "set", f"v{number}", "up")

    @contextmanager
    def bad_cable(self, number: int, seconds: float, fraction: float) -> Iterator[None]:
        """Let frames on a machine's cable be late by so many seconds, and some of them be lost."""
        for one in self._holders:
            self.run(one, [*BAD_CABLE, "--plain", "e0"]).check_returncode()
        self._ip("link", "add", "w", "type", "veth", "peer", "name", "x")
        self._ip("link", "set", f"v{number}", "nomaster")
        self._ip("link", "set", "x", "master", "bridge", "up")
        self._ip("link", "set", "w", "up")
        words = [*BAD_CABLE, f"v{number}", "w", str(seconds), str(fraction)]
        cable = subprocess.Popen([*self._yard_of(), *words], cwd=self.checkout)
        try:
            yield
        finally:
            cable.kill()
            cable.wait()
            self._ip("link", "del", "w")
            self._ip("link", "set", f"v{number}", "master", "bridge")

    def fill_disk(self, number: int, free_mb: int = 0) -> None:
        """Leave so much room on a machine's disk."""
        used = int(self.run(number, ["df", "--output=used", "-k", "/tmp"]).stdout.split()[-1])
        size = used + 1024 * free_mb + 4
        self.run(number, ["mount", "-o", f"remount,size={size}k", "/tmp"])

    def free_disk(self, number: int) -> None:
        """Give it its room back."""
        self.run(number, ["mount", "-o", f"remount,size={DISK_MB}m", "/tmp"])

    def lose(self, number: int) -> None:
        """The machine vanishes with its disk and all that runs on it."""
        holder = self._holders.pop(number)
        with suppress(ProcessLookupError):
            os.kill(self._pid_of(holder), signal.SIGKILL)
        holder.wait()
        # The kernel takes the cable away some time after the machine: its name is wanted at once.
        with suppress(subprocess.CalledProcessError):
            self._ip("link", "del", f"v{number}")

    def processes(self, number: int) -> list[str]:
        """Command lines of what runs on a machine, but the process that holds it."""
        found = self.run(number, ["ps", "-eo", "args="]).stdout.splitlines()
        return [line for line in found if not line.startswith(("sleep inf", "ps -eo", "env "))]

    def _pid(self, number: int) -> int:
        return self._pid_of(self._holders[number])

    def _pid_of(self, holder: subprocess.Popen[bytes]) -> int:
        """The machine's first process, the child of ``unshare``; 0: not yet there."""
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _ip(self, *words: str) -> None:
        self._in_yard("ip", *words)

    def _in_yard(self, *words: str) -> None:
        subprocess.run([*self._yard_of(), *words], check=True, capture_output=True)

    def _yard_of(self) -> list[str]:
        """What runs a command where the bridge is."""
        return ["nsenter", "--target", str(self._yard.pid), "--net"]


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def _wait(ready: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a call answers true."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "the machine did not come up"
        time.sleep(0.05)
