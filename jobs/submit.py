"""Send a verb to a cluster's job server and follow it.

The source of this project goes with the job, so the cluster runs the code that is here; the
packages it needs are the cluster's own (clusters/Dockerfile).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itpn_ray.errors import ConfigError, ItpnError
from itpn_ray.ray_runtime.compat import use_token
from itpn_ray.ray_runtime.nodes import MARKET
from itpn_ray.ray_runtime.placement import driver_selector
from itpn_ray.ray_runtime.start import quiet
from jobs.config import SubmitConfig

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_POLL_S = 1.0
# 128 + SIGINT, as shells have it.
_INTERRUPTED = 130


class JobLost(ItpnError):
    """The job was taken, and then its cluster stopped answering: it may still run."""


def submit(config: SubmitConfig, argv: Sequence[str]) -> int:
    """Run an ``itpn-ray`` verb as a job, or print its manifest for Kubernetes.

    Ctrl-C stops the following, not the job.

    Args:
        config: which cluster.
        argv: the verb and its options, as they would stand after ``itpn-ray``.

    Returns:
        The exit code of the verb; 128 + n if signal n ended it; 130 after Ctrl-C; 0 if the job is
        not followed; 1 if the cluster could not start it.

    Raises:
        ConfigError: no verb, a variable that is not set, a cluster that does not answer or refuses
            the token, a name in use.
        JobLost: the cluster stopped answering for ``connect_timeout_s``.
    """
    if not argv:
        raise ConfigError(
            "submit", None, "no verb to run", "Put it behind dashes: `itpn-ray submit ... -- demo`"
        )
    return _send(config, argv[0], ["-m", "itpn_ray.cli", *argv])


def submit_file(config: SubmitConfig) -> int:
    """Run the steps of the job file ``config.job``, as `submit` runs a verb.

    Raises:
        ConfigError: see `submit` and `itpn_ray`'s parsers: the file is checked before it is sent.
    """
    from jobs.chain import as_argument
    from jobs.files import read_job

    job = read_job(config.job, config.set)
    if len(job.steps) == 1:
        return _send(config, job.name, ["-m", "itpn_ray.cli", *job.steps[0].words])
    return _send(config, job.name, ["-m", "jobs.chain", as_argument(job)])


def _send(config: SubmitConfig, kind: str, words: Sequence[str]) -> int:
    """Run words of the cluster's Python as a job; ``kind`` is what its name begins with."""
    # No two jobs of a cluster may have one name, though they were sent in the same second.
    name = config.name or f"{kind}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    command = shlex.join([config.python, *words])
    if config.kubernetes:
        from jobs.rayjob import rayjob

        sys.stdout.write(rayjob(config, name, command))
        return 0
    return run_command(config, name, command)


def run_command(config: SubmitConfig, name: str, command: str) -> int:
    """Run a shell command as the job ``name``; see ``submit`` for what comes of it."""
    runtime_env = {
        "py_modules": _packages(),
        "excludes": ["**/__pycache__"],
        "env_vars": _environment(config),
    }
    client = _connect(config)
    where: dict[str, Any] = {}
    if (selector := _driver_place(config)) is not None:
        where["entrypoint_label_selector"] = selector
    end = time.monotonic() + config.connect_timeout_s
    while True:
        try:
            client.submit_job(
                entrypoint=command, submission_id=name, runtime_env=runtime_env, **where
            )
            break
        except RuntimeError as error:  # The one class Ray has for whatever the server answers.
            if "already exists" in str(error):
                raise ConfigError(
                    "submit.name", name, "the cluster has a job of this name", "Give another --name"
                ) from error
            # A node's agent, which starts jobs, comes up some seconds after the server does.
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(_POLL_S)
    print(f"job {name} runs on {config.address}\n{_hints(config, name)}", flush=True)
    if not config.follow:
        return 0
    try:
        return _follow(config, client, name)
    except KeyboardInterrupt:
        print(f"\nthe job {name} goes on\n{_hints(config, name)}", flush=True)
        return _INTERRUPTED


def _driver_place(config: SubmitConfig) -> dict[str, str] | None:
    """Labels of the nodes that the job's driver is to run on; None: the head, as Ray has it."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        nodes = list_nodes(address=config.address, filters=[("state", "=", "ALIVE")])
    except (RayStateApiException, OSError):  # a head that has only just started lists none
        return None
    markets = [str((node.labels or {}).get(MARKET, "")) for node in nodes]
    heads = [market for node, market in zip(nodes, markets, strict=True) if node.is_head_node]
    return driver_selector(markets, heads[0]) if heads else None


def _hints(config: SubmitConfig, name: str) -> str:
    return (
        f"  follow it: ray job logs --follow --address {config.address} {name}\n"
        f"  stop it:   ray job stop --address {config.address} {name}"
    )


def _packages() -> list[str]:
    """The folders of the packages that make up this project."""
    import itpn_ray
    import jobs

    return [str(Path(package.__path__[0])) for package in (itpn_ray, jobs)]


def _environment(config: SubmitConfig) -> dict[str, str]:
    for name in config.env:
        if name not in os.environ:
            raise ConfigError(
                "submit.env", name, "this variable is not set here", "Export it, or leave it out"
            )
    return {name: os.environ[name] for name in config.env}


def _connect(config: SubmitConfig) -> JobSubmissionClient:
    quiet()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    use_token()
    for name in ("dashboard_sdk", "job.sdk"):  # These two set a level of their own.
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    end = time.monotonic() + config.connect_timeout_s
    while True:
        try:
            return JobSubmissionClient(config.address)
        except AuthenticationError as error:
            raise ConfigError(
                "submit.address",
                config.address,
                "the cluster does not take this machine's token, or there is none",
                "Set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token",
            ) from error
        except ConnectionError as error:
            # A head takes about ten seconds to listen after `ray start` has returned.
            if time.monotonic() > end:
                raise ConfigError(
                    "submit.address",
                    config.address,
                    f"no job server answered for {config.connect_timeout_s:g} s",
                    "Check that the cluster's head runs and that its dashboard's port is reached",
                ) from error
            time.sleep(_POLL_S)


def _follow(config: SubmitConfig, client: JobSubmissionClient, name: str) -> int:
    """Print the log to its end, across broken connections, and return the job's exit code."""
    import aiohttp

    printer = _Printer()
    lost_since: float | None = None
    while True:
        before = printer.printed
        try:
            asyncio.run(printer.follow(client, name))
            info = client.get_job_info(name)
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            now = time.monotonic()
            # Text that has come since is a sign of life.
            if lost_since is None or printer.printed > before:
                lost_since = now
            if now - lost_since > config.connect_timeout_s:
                raise JobLost(
                    f"job {name}",
                    None,
                    f"{config.address} stopped answering ({error})",
                    "The job may still run; once the cluster answers: "
                    f"ray job logs --follow --address {config.address} {name}",
                ) from error
        else:
            lost_since = None
            if info.status.is_terminal():
                return _exit_code(info)
        time.sleep(_POLL_S)


def _exit_code(info: Any) -> int:
    if info.driver_exit_code is None:
        print(info.message, file=sys.stderr)
        return 1
    # Below zero it is a signal; then the code is the one that shells give.
    code = int(info.driver_exit_code)
    return code if code >= 0 else 128 - code


class _Printer:
    """Prints a job's log once, though the server sends it from the start to each connection."""

    def __init__(self) -> None:
        self.printed = 0

    async def follow(self, client: JobSubmissionClient, name: str) -> None:
        seen = 0
        async for text in client.tail_job_logs(name):
            # Each connection sends the log from its beginning; what was printed is passed over.
            fresh = text[max(0, self.printed - seen) :]
            seen += len(text)
            if fresh:
                sys.stdout.write(fresh)
                sys.stdout.flush()
                self.printed = seen
