"""What this project needs of Ray's private names, and what it does without them. Starts no Ray."""

from __future__ import annotations

import dataclasses
import inspect
import mmap
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import AuthenticationError

from itpn_ray.errors import ConfigError, DataError
from itpn_ray.ray_runtime import compat, start, train_compat
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.training.launch.ray_trainer import must_end

RAY = Path(ray.__file__).parent
BROKEN = DataError("shard-7.arrow", None, "is broken", "Make it anew")


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    """No name that a test found while it was replaced is found by the next."""
    compat.find.cache_clear()
    yield
    compat.find.cache_clear()


@pytest.fixture
def take_away(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes Ray a version that does not have some of the names."""

    def take(*names: str) -> None:
        for name in names:
            gone = dataclasses.replace(compat.NAMES[name], path=f"{compat.NAMES[name].path}_gone")
            monkeypatch.setitem(compat.NAMES, name, gone)
        compat.find.cache_clear()

    return take


def make_trainer(
    private: bool, controller: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Any:
    """A trainer whose ``fit`` ends where it would start its controller."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api import data_parallel_trainer

    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", controller)
    # Else it would put the function into an object store, and start a Ray for that.
    monkeypatch.setattr(data_parallel_trainer, "ObjectRefWrapper", lambda value: value)
    return train_compat.trainer_class(private=private, must_end=must_end)(_do_nothing, **options)


def _do_nothing() -> None:
    """A training function."""


def parts_of(private: bool, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """What a trainer gives its controller, as it arrives there."""
    seen: dict[str, Any] = {}

    def controller(trainer: Any, **parts: Any) -> SimpleNamespace:
        seen.update(parts)
        return SimpleNamespace(error=None)

    make_trainer(private, controller, monkeypatch, **options).fit()
    policies = {name: seen[name] for name in ("failure_policy", "scaling_policy")}
    return pickle.loads(pickle.dumps(policies))


# The names.


@pytest.mark.parametrize("name", compat.NAMES)
def test_the_installed_ray_has(name: str) -> None:
    assert compat.find(name) is not None
    private = compat.NAMES[name]
    assert private.why
    assert private.without


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Node", "ray_params head shutdown_at_exit spawn_reaper"),
        ("Node.kill_all_processes", "check_alive allow_graceful wait"),
        (
            "RayParams",
            "include_dashboard labels dashboard_host num_cpus num_gpus object_store_memory "
            "include_log_monitor no_monitor dashboard_agent_listen_port",
        ),
        ("ensure_token", "create_token_if_missing"),
        ("show_token", "warn_if_disabled"),
        ("bootstrap", "addr"),
        ("controller", "controller_init_kwargs"),
        ("sigint", "controller"),
    ],
)
def test_it_takes_what_it_is_given(name: str, parameters: str) -> None:
    name, _, method = name.partition(".")
    called = getattr(compat.find(name), method) if method else compat.find(name)
    assert set(parameters.split()) <= set(inspect.signature(called).parameters)


@pytest.mark.parametrize("name", ["enable_token", "callbacks", "send_request", "cancel_request"])
def test_it_needs_nothing(name: str) -> None:
    parameters = inspect.signature(compat.find(name)).parameters.values()
    assert [p.name for p in parameters if p.default is p.empty and p.name != "self"] == []


def test_what_is_read_of_them_is_there() -> None:
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert isinstance(compat.find("Node").gcs_address, property)
    assert "all_processes" in inspect.getsource(compat.find("Node").__init__)
    assert callable(compat.find("TokenLoader").instance().get_token_for_http_header)
    assert compat.find("FailureDecision").RAISE.value == "RAISE"
    context = inspect.getmodule(compat.find("preemption"))
    assert context is not None
    fields = {field.name: field.type for field in dataclasses.fields(context.TrainContext)}
    assert fields["preemption_context"] is PreemptionContext
    assert PreemptionContext().preemption_info is None


def test_ray_init_can_start_what_start_head_does() -> None:
    parameters = set(inspect.signature(ray.init).parameters)
    assert {"num_cpus", "num_gpus", "object_store_memory", "labels"} <= parameters
    assert {"include_dashboard", "dashboard_host", "ignore_reinit_error"} <= parameters


def test_a_controller_asks_the_policy_that_it_is_given() -> None:
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.failure_handling import FailurePolicy

    assert {"failure_policy", "scaling_policy"} <= set(
        inspect.signature(TrainController.__init__).parameters
    )
    asked = inspect.signature(FailurePolicy.make_decision).parameters
    ours = inspect.signature(train_compat.EndingPolicy.make_decision).parameters
    assert list(asked) == list(ours)
    assert FailurePolicy.__abstractmethods__ == {"make_decision"}


def test_a_failure_holds_what_the_worker_raised() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2._internal.execution.worker_group.poll import (
        WorkerGroupPollStatus,
        WorkerStatus,
    )

    raised = UserExceptionWithTraceback(BROKEN, "its traceback")
    status = WorkerGroupPollStatus({1: WorkerStatus(running=False, error=raised)})
    assert must_end(pickle.loads(pickle.dumps(status.get_worker_group_error())))


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("RAY_LOGGER_LEVEL", "_private/ray_constants.py"),
        ("RAY_DATA_LOG_LEVEL", "data/_internal/logging.py"),
        ("RAY_prestart_worker_first_driver", "core/src/ray/raylet/raylet"),
        ("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "train/v2/_internal/constants.py"),
        ("RAY_enable_metrics_collection", "core/src/ray/raylet/raylet"),
        ("RAY_event_stats", "core/src/ray/raylet/raylet"),
        ("RAY_task_events_report_interval_ms", "core/src/ray/raylet/raylet"),
        ("REPORTER_UPDATE_INTERVAL_MS", "dashboard/modules/reporter/reporter_consts.py"),
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "train/v2/_internal/constants.py"),
        ("RAY_TRAIN_METRICS_ENABLED", "train/v2/_internal/constants.py"),
        (compat.SLOW_START, "_private/node.py"),
        (compat._CLUSTER_ID, "core/src/ray/gcs/gcs_server"),
    ],
)
def test_ray_knows(variable: str, file: str) -> None:
    compiled = "core" in file  # where the names of settings stand without their prefix
    text = variable.removeprefix("RAY_").removeprefix("/") if compiled else variable
    with (RAY / file).open("rb") as source, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as m:
        assert m.find(text.encode()) >= 0


def test_every_variable_is_checked() -> None:
    marks = test_ray_knows.pytestmark  # type: ignore[attr-defined]
    checked = {variable for variable, _ in marks[0].args[1]}
    assert compat.QUIET.keys() | compat.ALWAYS.keys() <= checked
    assert compat.UNSEEN.keys() | compat.UNWATCHED.keys() <= checked


# What is done with them.


@pytest.mark.parametrize("private", [True, False])
def test_only_on_a_cluster_somebody_tidies_up(private: bool) -> None:
    trainer = train_compat.trainer_class(private=private, must_end=must_end)(_do_nothing)
    helpers = [type(callback).__name__ for callback in trainer._create_default_callbacks()]
    assert ("PlacementGroupCleanerCallback" in helpers) is not private
    assert "DatasetsCallback" not in helpers


@pytest.mark.parametrize(
    ("workers", "private", "asks"), [(2, True, False), (2, False, True), ((1, 2), True, True)]
)
def test_only_a_cluster_is_asked_for_machines(
    workers: Any, private: bool, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train import ScalingConfig

    policy = parts_of(private, monkeypatch, scaling_config=ScalingConfig(num_workers=workers))[
        "scaling_policy"
    ]
    if asks:
        with pytest.raises(AssertionError):  # for want of the client that it asks through
            policy._send_resource_request()
    else:
        policy._send_resource_request()
        policy._cancel_resource_request()
        assert policy.make_decision_for_non_running_worker_group().num_workers == workers


def test_errors_of_ours_end_a_run_and_others_restart_as_often_as_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.train import FailureConfig, RunConfig, WorkerGroupError

    run = RunConfig(name="run", failure_config=FailureConfig(max_failures=2))
    policy = parts_of(True, monkeypatch, run_config=run)["failure_policy"]
    lost = WorkerGroupError("a machine is gone", {0: RuntimeError("killed")})
    broken = WorkerGroupError("data", {0: RuntimeError("lost its peer"), 1: BROKEN})
    assert [policy.make_decision(error).value for error in (broken, lost, broken, lost, lost)] == [
        "RAISE",
        "RETRY",
        "RAISE",
        "RETRY",
        "RAISE",
    ]


def test_ctrl_c_is_left_to_the_driver() -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = train_compat.trainer_class(private=True, must_end=must_end)(_do_nothing)
    trainer._register_sigint_handler(None)
    assert signal.getsignal(signal.SIGINT) is before


# What is done without them.


def test_a_missing_name_is_told_once(
    take_away: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    take_away("max_resources")
    assert [compat.max_resources(), compat.max_resources()] == [None, None]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"Ray {ray.__version__} has no ray._private.state.state.")
    assert "workers that no node can ever hold are waited for" in caplog.messages[0]


def test_a_missing_module_is_told_too(
    monkeypatch: pytest.MonkeyPatch, take_away: Callable[..., None], caplog: Any
) -> None:
    take_away()
    entry = dataclasses.replace(compat.NAMES["Node"], path="ray._private.gone:Node")
    monkeypatch.setitem(compat.NAMES, "Node", entry)
    assert compat.find("Node") is None
    assert "has no ray._private.gone.Node" in caplog.text


@pytest.mark.parametrize("name", ["Node", "RayParams", "enable_token", "ensure_token"])
def test_without_a_head_of_its_own_ray_starts_one(
    name: str, take_away: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(name)
    started: list[dict[str, Any]] = []
    context = SimpleNamespace(gcs_address="127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray, "shutdown", lambda: started.append({}))
    monkeypatch.setattr(start, "_set_environment", lambda config, verbose: None)
    with start_ray(RayConfig(num_cpus=3)) as address:
        assert address == "127.0.0.1:1"
    options, ended = started
    assert (options["address"], options["num_cpus"]) == ("local", 3)
    assert options["labels"] == {"itpn-ray/private": "true"}
    assert ended == {}


def test_without_tokens_a_cluster_is_left_to_ray(take_away: Callable[..., None]) -> None:
    take_away("show_token", "TokenLoader")
    compat.use_token()
    assert not compat.refuses_token("127.0.0.1:9", timeout_s=1)


def test_a_token_that_is_to_be_shown_and_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> dict[str, str]:
        raise AuthenticationError("no token was found")

    loader = SimpleNamespace(instance=lambda: SimpleNamespace(get_token_for_http_header=none))
    monkeypatch.setattr(compat, "find", {"TokenLoader": loader}.get)
    assert compat.refuses_token("127.0.0.1:9", timeout_s=1)


@pytest.mark.parametrize("error", [ConnectionError("no answer"), AuthenticationError("no token")])
@pytest.mark.parametrize("address", ["10.0.0.1:6379", "auto"])
def test_a_refused_token_is_told_however_ray_says_so(
    monkeypatch: pytest.MonkeyPatch, address: str, error: Exception
) -> None:
    def refused(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setattr(start, "_check_head", lambda head: None)
    monkeypatch.setattr(compat, "use_token", lambda: None)
    monkeypatch.setattr(compat, "head_of_this_machine", lambda: "10.0.0.1:6379")
    monkeypatch.setattr(compat, "refuses_token", lambda head, timeout_s: True)
    with pytest.raises(ConfigError, match=r"ray.address = '10.0.0.1:6379': .* token, or there is"):
        start._join(address, {})


def test_no_head_on_this_machine_or_several_are_left_to_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def several(address: str) -> None:
        raise ConnectionError("several")

    monkeypatch.setattr(compat, "find", {"bootstrap": several}.get)
    assert compat.head_of_this_machine() == ""
    monkeypatch.setattr(compat, "find", {"bootstrap": lambda address: None}.get)
    assert compat.head_of_this_machine() == ""


def test_without_bundles_rows_come_as_rows(take_away: Callable[..., None]) -> None:
    take_away("ref_bundles")
    rows = [{"answer": b"1"}, {"answer": b"2"}]
    dataset: Any = SimpleNamespace(iter_rows=lambda: iter(rows))
    assert list(compat.rows_of(dataset)) == rows


def test_without_its_record_no_draining_is_seen(take_away: Callable[..., None]) -> None:
    take_away("preemption")
    assert compat.preemption() is None


def test_without_helpers_names_all_of_them_run(take_away: Callable[..., None]) -> None:
    take_away("DatasetsCallback", "PlacementGroupCleanerCallback", "callbacks", "sigint")
    trainer = train_compat.trainer_class(private=True, must_end=must_end)(_do_nothing)
    helpers = [type(callback).__name__ for callback in trainer._create_default_callbacks()]
    assert {"DatasetsCallback", "PlacementGroupCleanerCallback"} <= set(helpers)


@pytest.mark.parametrize("name", ["FixedScalingPolicy", "maybe_send_request"])
def test_without_its_methods_a_scaling_policy_stays_as_it_is(
    name: str, take_away: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(name)
    policy = parts_of(True, monkeypatch)["scaling_policy"]
    with pytest.raises(AssertionError):
        policy._send_resource_request()


@pytest.mark.parametrize("name", ["controller", "FailureDecision"])
@pytest.mark.parametrize(
    ("raised", "max_failures", "fits"),
    [(BROKEN, 3, 1), (RuntimeError("killed"), 2, 3), (RuntimeError("killed"), 0, 1)],
)
def test_without_a_policy_of_its_own_the_failures_are_counted_here(
    name: str,
    raised: Exception,
    max_failures: int,
    fits: int,
    take_away: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from ray.train import WorkerGroupError

    from itpn_ray.training.launch import ray_trainer
    from tests.training.runs import tiny

    take_away(name)
    seen: list[int] = []

    def controller(trainer: Any, **parts: Any) -> SimpleNamespace:
        assert not isinstance(parts["failure_policy"], train_compat.EndingPolicy)
        seen.append(parts["failure_policy"].failure_config.max_failures)
        return SimpleNamespace(error=WorkerGroupError("failed", {0: raised}))

    make_trainer(True, controller, monkeypatch)
    monkeypatch.setattr(ray_trainer, "is_private", lambda: True)
    monkeypatch.setattr(ray_trainer, "_placed", lambda config, journal: config)
    config = tiny(str(tmp_path), tmp_path, workers="1", max_failures=max_failures)
    with pytest.raises(DataError if raised is BROKEN else WorkerGroupError):
        ray_trainer.launch(config, tmp_path)
    assert seen == [0] * fits
    assert "errors of this project still end a run" in caplog.text


def test_with_it_ray_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import WorkerGroupError

    from itpn_ray.training.launch import ray_trainer
    from tests.training.runs import tiny

    seen: list[train_compat.EndingPolicy] = []

    def controller(trainer: Any, **parts: Any) -> SimpleNamespace:
        seen.append(parts["failure_policy"])
        return SimpleNamespace(error=WorkerGroupError("failed", {0: RuntimeError("killed")}))

    make_trainer(True, controller, monkeypatch)
    monkeypatch.setattr(ray_trainer, "is_private", lambda: True)
    monkeypatch.setattr(ray_trainer, "_placed", lambda config, journal: config)
    with pytest.raises(WorkerGroupError):
        ray_trainer.launch(tiny(str(tmp_path), tmp_path, workers="1", max_failures=2), tmp_path)
    assert [policy.stock.failure_config.max_failures for policy in seen] == [2]
