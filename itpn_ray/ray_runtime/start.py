"""How this project starts Ray: the one place for addresses, tokens, quiet and time limits.

Settings travel as environment variables, because Ray reads them in processes of its own: a private
Ray inherits them from this process, and Ray Train hands its own on to its controller and workers.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from itpn_ray.errors import ConfigError, RunError, told_by
from itpn_ray.interrupt import keep_sigterm
from itpn_ray.ray_runtime import compat
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.storage.scratch import private_folder

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_PRIVATE = {"itpn-ray/private": "true"}
_LEAST_CPUS = 4
_CONNECT_TIMEOUT_S = 5.0
_PATIENT_TIMEOUT_S = 20.0
_START_ATTEMPTS = 3

T = TypeVar("T")


def quiet() -> None:
    """Silence Ray's progress bars, banners and usage reports in this process and its children.

    Call it before Ray Data is imported, which reads its progress-bar switch at import.
    """
    os.environ.update(_QUIET | compat.QUIET)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def redirect_ray_output(path: Path, *, verbose: bool) -> Iterator[None]:
    """Send what Ray prints into this process's output to a file, unless ``verbose``.

    Ray Tune prints tables whatever its settings say; the core of Ray, which is no Python, writes
    its stack traces and what it knows of dead workers to standard error itself.
    """
    if verbose:
        yield
        return
    with path.open("a") as file, redirect_stdout(file), _redirected_errors(file):
        yield


@contextmanager
def redirect_ray_errors(*, verbose: bool) -> Iterator[None]:
    """Send what Ray prints to standard error to `ray_log`, unless ``verbose``.

    For verbs that have no run's folder, and a progress bar on standard output.
    """
    if verbose:
        yield
        return
    with ray_log().open("a") as file, _redirected_errors(file):
        yield


def ray_log() -> Path:
    """The file of this user's that takes Ray's messages where there is no run's folder."""
    return private_folder("itpn_ray_logs") / "ray.log"


@contextmanager
def _redirected_errors(file: TextIO) -> Iterator[None]:
    """Send standard error to a file: Python's, and that of whatever else is in this process."""
    sys.stderr.flush()
    # Ray's core writes to the descriptor itself, past Python's sys.stderr.
    former = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        with redirect_stderr(file):
            yield
    finally:
        file.flush()
        os.dup2(former, 2)
        os.close(former)


@contextmanager
def start_ray(config: RayConfig | None = None, *, verbose: bool = False) -> Iterator[str]:
    """Connect to Ray for the length of a ``with`` block and yield the cluster's address.

    A Ray this process is connected to already is used as it is and left connected. Otherwise, in
    this order: ``config.address``; ``RAY_ADDRESS``; a private Ray on this machine.

    Args:
        config: which Ray; ``None`` is ``RayConfig()``.
        verbose: show what Ray and its workers print.

    Raises:
        ConfigError: if no cluster answers at the address, or it wants another token.
        RunError: if a private Ray does not come up.
    """
    config = config or RayConfig()
    _set_environment(config, verbose)
    import ray

    # Whoever connected this process decides when it leaves.
    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    options: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": "INFO" if verbose else "ERROR",
    }
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    with ExitStack() as stack:
        if not address:
            address, shape = stack.enter_context(_private_head(config, verbose))
            options |= shape
        with keep_sigterm():
            _join(address, options)
        stack.callback(ray.shutdown)
        yield ray.get_runtime_context().gcs_address


def is_private() -> bool:
    """Whether the Ray at hand is a private one: of one machine, and gone with its driver."""
    import ray

    return any(_PRIVATE.items() <= node["Labels"].items() for node in ray.nodes())


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables that are set for a while, except those that the user has set."""
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def dashboard_address() -> str:
    """URL of the dashboard and job server of the Ray that this process is connected to.

    Raises:
        ConfigError: if it has none.
    """
    import ray

    url = ray.init(ignore_reinit_error=True).dashboard_url
    if not url:
        raise ConfigError(
            "ray.dashboard", False, "this Ray has no dashboard", "Set ray.dashboard to true"
        )
    return f"http://{url}"


def _patiently(start: Callable[[], T]) -> T:
    """Start a node, which Ray gives 30 s to register: on a crowded machine that can be too few."""
    import psutil

    this = psutil.Process()
    before = set(this.children(recursive=True))
    for _ in range(_START_ATTEMPTS):
        try:
            return start()
        except BaseException as error:  # Ray raises no narrower class here, and Ctrl-C may come.
            # Ray leaves the processes of the failed start to run on.
            for process in set(this.children(recursive=True)) - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if compat.SLOW_START not in str(error):
                raise
    raise RunError(
        "ray",
        None,
        f"did not start in {_START_ATTEMPTS} tries of 30 s: this machine is too busy",
        "Repeat the command when it has less to do",
    )


@contextmanager
def _private_head(config: RayConfig, verbose: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """A Ray of this machine alone, beside whatever other Rays run on it.

    It has what a run needs and no more: every process of Ray's takes about a hundredth of a core
    while nothing happens, and interrupts those that train or decode.

    Yields:
        Its address and no options; where ``ray.init`` has to start it, "local" and what it is to
        have.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # It warns that a token is used.
    shape = {
        "include_dashboard": config.dashboard,
        "labels": _PRIVATE,
        "dashboard_host": "127.0.0.1",
        "num_cpus": config.num_cpus or max(_LEAST_CPUS, os.cpu_count() or 1),
        "num_gpus": config.num_gpus,
        "object_store_memory": int(config.object_store_gb * 1e9),
    }
    with environment(compat.PRIVATE | ({} if config.dashboard else compat.UNSEEN)):
        try:
            head = _patiently(lambda: compat.start_head(shape, log_workers=verbose))
        except OSError as error:
            raise _no_room(error) from error
    if head is None:
        # Without Ray's private parts, ray.init() starts one itself.
        yield "local", shape
        return
    try:
        yield head.gcs_address, {}
    finally:
        compat.end_head(head)


def _no_room(error: OSError) -> ConfigError:
    """What keeps Ray from writing where it has its sockets, logs and shared files."""
    # As Ray chooses between them.
    place = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
    # Of the errors that Ray raises itself, the one on the length of a socket's path has no number.
    cause = error.strerror or "its sockets would have paths of more than 107 bytes"
    return ConfigError(
        place,
        os.environ.get(place, "/tmp"),
        f"Ray cannot keep its files there ({cause})",
        "Set RAY_TMPDIR to a folder with a short path that can be written and has room",
    )


def _set_environment(config: RayConfig, verbose: bool) -> None:
    if not verbose:
        quiet()
    os.environ.update(compat.ALWAYS)
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(config.health_check_interval_s)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.worker_start_timeout_s)


def _join(address: str, options: dict[str, Any]) -> None:
    """Connect to a running cluster, and say in seconds why it cannot be: Ray itself takes 20 s."""
    import ray
    from ray.exceptions import AuthenticationError

    if address != "local":
        compat.use_token()
    head = compat.head_of_this_machine() if address == "auto" else address
    if head not in ("", "local"):
        _check_head(head)
    try:
        ray.init(address=address, **options)
    except AuthenticationError as error:
        raise _refused(head) from error
    except ConnectionError as error:
        # Asked again, for a head may be too busy to answer at first.
        if head not in ("", "local") and compat.refuses_token(head, timeout_s=_PATIENT_TIMEOUT_S):
            raise _refused(head) from error
        raise _unreachable(address, told_by(error)) from error


def _check_head(address: str) -> None:
    """Ask the head at ``host:port`` whether it answers this machine and takes its token."""
    host, _, port = address.rpartition(":")
    # A quick look first: ray.init() takes long to say that nobody answers.
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, str(error)) from error
    if compat.refuses_token(address, timeout_s=_CONNECT_TIMEOUT_S):
        raise _refused(address)


def _refused(address: str) -> ConfigError:
    return ConfigError(
        "ray.address",
        address,
        "the cluster does not take this machine's token, or there is none",
        "Set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token",
    )


def _unreachable(address: str, cause: str) -> ConfigError:
    return ConfigError(
        "ray.address",
        address,
        f"no Ray cluster answers there ({cause})",
        "Check that its head runs and that this machine reaches its port, "
        "or leave the address empty for a private Ray",
    )
