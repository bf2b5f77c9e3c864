"""What Ray keeps private and this project needs: named here, and in no other module.

``NAMES`` says of each name why it is needed, which public way is missing, and what happens where a
Ray does not have it: ``find`` then warns, and the product does what Ray does by itself. The
variables below are read by Ray but not in its documentation; one that a Ray does not know has no
effect. pyproject.toml pins Ray to the minor version that all this was checked with, and
tests/ray_runtime/test_compat.py checks it again.

Nothing of Ray is imported before it is asked for: this module is imported where settings are read.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True, kw_only=True)
class PrivateName:
    """A name that Ray may take away without notice."""

    path: str
    """``module:attribute``, with further attributes behind dots."""
    why: str
    """What it is needed for, and why no public way does it."""
    without: str
    """What happens where it is missing, for the warning."""


_TOKENS = "ray._private.authentication.authentication_token_setup"
_TRAIN = "ray.train.v2._internal"
_TRAINER = "ray.train.torch:TorchTrainer"
_PLACES = (
    "Places workers by labels that change during a run (spot machines first, then any). "
    "ScalingConfig.label_selector holds for a whole run, and an elastic run counts nodes that it "
    "does not take."
)
_STOCK_PLACES = "workers are placed on machines of any market"
_ELASTIC = f"{_TRAIN}.execution.scaling_policy.elastic:ElasticScalingPolicy"
_FIXED = f"{_TRAIN}.execution.scaling_policy.fixed:FixedScalingPolicy"

_OWN_HEAD = (
    "Starts a private Ray. ray.init() gives the node's agent a fixed port, so that a second Ray on "
    "a machine takes no jobs, and starts helpers that interrupt those who train or decode."
)
_STOCK_HEAD = "a private Ray is started by ray.init() and takes no jobs beside another Ray"
_ASKS = (
    "Asks an autoscaler for machines through an actor that wakes up 150 times a second; a private "
    "Ray has one machine. No setting of ScalingConfig turns it off."
)
_STOCK_ASKS = "Ray Train asks for machines that a private Ray never gets, which costs CPU time"
_HELPERS = "Lists the helpers of a training. No setting leaves one out that has nothing to do."
_STOCK_HELPERS = "a helper of Ray Train runs that has nothing to do, which costs CPU time"
_POLICY = (
    "Has an error of ours end a run, which a restart would only meet again. FailureConfig counts "
    "failures, whatever they are."
)
_STOCK_POLICY = (
    "errors of this project still end a run, but after another failure all of Ray Train starts "
    "again and not its workers alone"
)

NAMES = {
    "Node": PrivateName(path="ray._private.node:Node", why=_OWN_HEAD, without=_STOCK_HEAD),
    "RayParams": PrivateName(
        path="ray._private.parameter:RayParams", why=_OWN_HEAD, without=_STOCK_HEAD
    ),
    "enable_token": PrivateName(
        path=f"{_TOKENS}:enable_token_auth_by_default",
        why="As ray.init() does before it starts a head: nobody else may use a private Ray.",
        without=_STOCK_HEAD,
    ),
    "ensure_token": PrivateName(
        path=f"{_TOKENS}:ensure_token_if_auth_enabled",
        why="As ray.init() does before it starts a head: makes a token where the user has none.",
        without=_STOCK_HEAD,
    ),
    "show_token": PrivateName(
        path=f"{_TOKENS}:maybe_enable_token_auth_if_token_available",
        why="Shows the user's token to clusters reached by address. Ray does so by itself only for "
        "one that it found on this machine, and reads RAY_AUTH_MODE when it is imported.",
        without="a cluster's token is shown only where RAY_AUTH_MODE=token is set",
    ),
    "TokenLoader": PrivateName(
        path="ray._raylet:AuthenticationTokenLoader",
        why="Asks a head whether it takes the user's token: ray.init() says after 20 s that it "
        "cannot connect, and not that the token is wrong.",
        without="a cluster that refuses the token is told by Ray itself, and late",
    ),
    "bootstrap": PrivateName(
        path="ray._private.services:canonicalize_bootstrap_address",
        why="Which cluster of this machine `auto` means, to ask it whether it takes the token.",
        without="a cluster of this machine that refuses the token is told by Ray itself, and late",
    ),
    "max_resources": PrivateName(
        path="ray._private.state:state.get_max_resources_from_cluster_config",
        why="What an autoscaler may add in all. ray.cluster_resources() knows the nodes at hand.",
        without="workers that no node can ever hold are waited for",
    ),
    "ref_bundles": PrivateName(
        path="ray.data:Dataset.iter_internal_ref_bundles",
        why="An execution that ends when it is closed. The threads of iter_rows and iter_batches "
        "go on, and end the process if they ask Ray for something after its shutdown.",
        without="threads of Ray Data may outlive what is read",
    ),
    "preemption": PrivateName(
        path=f"{_TRAIN}.execution.context:get_train_context",
        why="Whether this node is being drained, asked at each step. The public "
        "ray.train.get_preemption_info() reads the same field, then waits for all ranks.",
        without="only SIGTERM tells that a machine is about to go, and not Ray's draining of it",
    ),
    "callbacks": PrivateName(
        path=f"{_TRAINER}._create_default_callbacks", why=_HELPERS, without=_STOCK_HELPERS
    ),
    "DatasetsCallback": PrivateName(
        path=f"{_TRAIN}.callbacks.datasets:DatasetsCallback", why=_HELPERS, without=_STOCK_HELPERS
    ),
    "PlacementGroupCleanerCallback": PrivateName(
        path=f"{_TRAIN}.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        why=_HELPERS,
        without=_STOCK_HELPERS,
    ),
    "sigint": PrivateName(
        path=f"{_TRAINER}._register_sigint_handler",
        why="Leaves Ctrl-C to the driver, which has the workers save first. No setting does.",
        without="Ctrl-C ends a training at once, back to its last checkpoint",
    ),
    "controller": PrivateName(
        path=f"{_TRAINER}._initialize_and_run_controller", why=_POLICY, without=_STOCK_POLICY
    ),
    "FailureDecision": PrivateName(
        path=f"{_TRAIN}.execution.failure_handling:FailureDecision",
        why=_POLICY,
        without=_STOCK_POLICY,
    ),
    "FixedScalingPolicy": PrivateName(path=_FIXED, why=_ASKS, without=_STOCK_ASKS),
    "send_request": PrivateName(
        path=f"{_FIXED}._send_resource_request", why=_ASKS, without=_STOCK_ASKS
    ),
    "maybe_send_request": PrivateName(
        path=f"{_FIXED}._maybe_send_resource_request", why=_ASKS, without=_STOCK_ASKS
    ),
    "cancel_request": PrivateName(
        path=f"{_FIXED}._cancel_resource_request", why=_ASKS, without=_STOCK_ASKS
    ),
    "count_workers": PrivateName(
        path=f"{_ELASTIC}._count_possible_workers", why=_PLACES, without=_STOCK_PLACES
    ),
    "decide_start": PrivateName(
        path=f"{_FIXED}.make_decision_for_non_running_worker_group",
        why=_PLACES,
        without=_STOCK_PLACES,
    ),
    "on_start": PrivateName(
        path=f"{_FIXED}.on_controller_start_worker_group", why=_PLACES, without=_STOCK_PLACES
    ),
}

QUIET = {
    # At "info" a node's agent writes a job's environment variables into its log.
    "RAY_LOGGER_LEVEL": "warning",
    "RAY_DATA_LOG_LEVEL": "ERROR",
}
ALWAYS = {
    # A worker for each CPU, started with the first driver: training workers have environments of
    # their own and take none of them, and each costs 0.8 s of a core.
    "RAY_prestart_worker_first_driver": "0",
    # Spot machines give 30 s or two minutes; Ray's own interval of 5 s is a good part of that.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
PRIVATE = {
    # At Ray's own 15 Linux weighs a worker as a thirtieth of anything else that wants the core: a
    # training in a private Ray is what its user waits for, and competes like one without Ray.
    "RAY_worker_niceness": "0",
}
UNSEEN = {
    # Ray measures itself all the time; without a dashboard nobody of a private Ray's sees it.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
UNWATCHED = {
    # Nobody drains the node of a private Ray, or reads what Ray Train measures.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}

SLOW_START = "timed out during startup"
"""What Ray says of a node that did not register in 30 s; it has no error class for it."""

_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""A call that every head answers; one that does not know it says so, and is left to ray.init()."""


@cache
def find(name: str) -> Any:
    """What a name of ``NAMES`` stands for; None, with a warning, where this Ray lacks it."""
    private = NAMES[name]
    module, attributes = private.path.split(":")
    try:
        return attrgetter(attributes)(importlib.import_module(module))
    except (ImportError, AttributeError):
        import ray

        logging.getLogger(__name__).warning(
            "Ray %s has no %s: %s. Install the version that pyproject.toml asks for",
            ray.__version__,
            private.path.replace(":", "."),
            private.without,
        )
        return None


def find_all(*names: str) -> tuple[Any, ...] | None:
    """What the names stand for, if this Ray has them all."""
    found = tuple(find(name) for name in names)
    return None if None in found else found


def start_head(shape: Mapping[str, Any], *, log_workers: bool) -> Any:
    """Start the head of a private Ray, with what a run needs and no more.

    Args:
        shape: options of ``ray.init`` that say what the head has.
        log_workers: bring what workers print to the driver.

    Returns:
        The node, for ``end_head``; None where only ``ray.init`` can start one.

    Raises:
        OSError: Ray cannot keep its files.
        Exception: with ``SLOW_START`` in its message, the node did not come up in time.
    """
    found = find_all("Node", "RayParams", "enable_token", "ensure_token")
    if found is None:
        return None
    node, params, enable_token, ensure_token = found
    enable_token()
    ensure_token(create_token_if_missing=True)
    settings = params(
        **shape,
        include_log_monitor=log_workers,
        no_monitor=True,  # there is nothing to scale
        dashboard_agent_listen_port=0,  # any that is free
        dashboard_port=None,  # the usual one, or the next that is free beside another Ray's
    )
    # Not at exit, by handlers that would end this process their way: end_head ends it.
    return node(settings, head=True, shutdown_at_exit=False, spawn_reaper=True)


def end_head(node: Any) -> None:
    """End a private Ray and everything that it started."""
    import psutil

    workers = []
    with suppress(psutil.NoSuchProcess):  # where the raylet itself was killed
        workers = psutil.Process(node.all_processes["raylet"][0].process.pid).children()
    node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
    # A worker can hang in its own exit (Ray 2.60), and then outlives all who could end it.
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def use_token() -> None:
    """Show this user's cluster token to clusters reached by address.

    Does nothing where ``RAY_AUTH_MODE`` is set or the user has no token.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # It warns that a token is used.
    show_token = find("show_token")
    if show_token is not None:
        show_token(warn_if_disabled=False)


def refuses_token(address: str, *, timeout_s: float) -> bool:
    """Whether the head at ``host:port`` answers that it does not take the token Ray would show.

    Or there is none to show. Whatever else goes wrong (TLS, say) is for Ray's own client to judge.
    """
    import grpc  # type: ignore[import-untyped]

    loader = find("TokenLoader")
    if loader is None:
        return False
    from ray.exceptions import AuthenticationError

    try:
        headers = loader.instance().get_token_for_http_header()
    except AuthenticationError:
        return True
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_CLUSTER_ID)(b"", timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def head_of_this_machine() -> str:
    """``host:port`` of the head that ``auto`` means; empty where none is known."""
    find_head = find("bootstrap")
    try:
        return (find_head("auto") if find_head is not None else None) or ""
    except ConnectionError:  # Ray's word for: there are several
        return ""


def max_resources() -> Mapping[str, float] | None:
    """What the cluster's autoscaler may have in all, where there is one and Ray can say."""
    ask = find("max_resources")
    return ask() if ask is not None else None


def rows_of(dataset: Dataset) -> Generator[dict[str, Any], None, None]:
    """The rows of a Ray Dataset as they come; closing ends its execution and all its threads."""
    import ray

    if find("ref_bundles") is None:
        yield from dataset.iter_rows()
        return
    bundles = dataset.iter_internal_ref_bundles()
    try:
        for bundle in bundles:
            for block in ray.get(list(bundle.block_refs)):
                yield from block.to_pylist()
    finally:
        del bundles  # which ends the execution


def preemption() -> Any:
    """Ray Train's record of what it told this worker: ``preemption_info``, set once a node drains.

    None in a process that Ray Train did not start, and where Ray has no such record.
    """
    get_train_context = find("preemption")
    if get_train_context is None:
        return None
    try:
        return get_train_context().preemption_context
    except RuntimeError:  # Ray's word for: not a training worker
        return None
