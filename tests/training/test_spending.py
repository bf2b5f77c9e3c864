"""What a run costs while it runs, and the cap that it is held to."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path

import pytest

from itpn_ray import cli
from itpn_ray.costs.config import CostConfig
from itpn_ray.costs.prices import Machine, PriceList
from itpn_ray.errors import CapReached, ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.ray_runtime.nodes import Node
from itpn_ray.report import write_report
from itpn_ray.report.costs import bill_of
from itpn_ray.runs.folder import COSTS, EXPORT
from itpn_ray.runs.journal import EVENTS, FileJournal, read_lines
from itpn_ray.runs.listing import overview, read_runs
from itpn_ray.runs.reader import read_run
from itpn_ray.terminal.console import Console
from itpn_ray.tracking.base import MemoryTracker
from itpn_ray.training import spending, stopping
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.launch.driver import run
from itpn_ray.training.launch.process import open_checkpoints
from itpn_ray.training.spending import Spending, held
from itpn_ray.training.stopping import StopRequest, SweepStop
from itpn_ray.tuning.config import SweepConfig
from tests.training.runs import classification, final_digest, train_alone

PRICES = PriceList(
    place="prices.yaml",
    currency="EUR",
    machines={"box": Machine(name="box", cpus=8, on_demand=3600.0, spot=1800.0)},
)


def node(name: str, **labels: str) -> Node:
    named = {key.replace("_", "-"): value for key, value in labels.items()}
    return Node(id=name, address="", labels=named, resources={})


class Asked:
    """A run that remembers what it was asked."""

    def __init__(self) -> None:
        self.reasons: list[tuple[str, bool]] = []

    def cap(self, reason: CapReached, *, at_once: bool) -> None:
        self.reasons.append((str(reason), at_once))


def clock(monkeypatch: pytest.MonkeyPatch, start: float = 1000.0) -> list[float]:
    """A clock whose only element is the time."""
    now = [start]
    monkeypatch.setattr(spending.time, "time", lambda: now[0])
    monkeypatch.setattr(spending, "INTERVAL_S", 3600.0)  # the test looks itself
    return now


def test_nodes_are_priced_by_their_labels_or_the_named_machine() -> None:
    nodes = [
        node("a", instance_type="box", market="spot"),
        node("b", instance_type="box", market="on-demand"),
        node("c"),
        node("d", market="spot"),
    ]
    assert [one.price for one in held(nodes, CostConfig(), PRICES)] == [1800, 3600, None, None]
    named = held(nodes, CostConfig(machine="box"), PRICES)
    assert [one.price for one in named] == [1800, 3600, 3600, 1800]
    assert [one.price for one in held(nodes, CostConfig(machine="box"), None)] == [None] * 4


def test_a_run_is_asked_to_save_before_its_cap_and_ended_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = clock(monkeypatch), Asked()
    nodes = [node("a", instance_type="box", market="on-demand")]  # EUR 1 a second
    config = CostConfig(max_cost=200.0)
    with Spending(tmp_path, config, PRICES, asked, nodes=lambda: nodes) as counted:
        for elapsed, asks in ((79.0, 0), (81.0, 1), (201.0, 2)):
            now[0] = 1000.0 + elapsed
            counted._look()
            counted._check()
            assert len(asked.reasons) == asks
    assert [at_once for _, at_once in asked.reasons] == [False, True]
    assert "max_cost = 200.0: the run has ended, for it has cost EUR 81.00" in asked.reasons[0][0]
    assert json.loads((tmp_path / COSTS).read_text())["holdings"][0]["price"] == 3600.0


def test_a_look_that_fails_does_not_lift_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = clock(monkeypatch), Asked()
    config = CostConfig(max_cost=200.0)
    seen = [node("a", instance_type="box", market="on-demand")]  # EUR 1 a second

    def nodes() -> list[Node]:
        if not seen:
            raise ConnectionError("the cluster does not answer")
        return seen

    counted = Spending(tmp_path, config, PRICES, asked, nodes=nodes)
    counted._look()
    looks = iter([[], [], seen[:]])

    def wait(seconds: float) -> bool:
        now[0] += 45.0
        seen[:] = next(looks)
        return len(seen) == 1  # the last look ends it

    monkeypatch.setattr(counted._stop, "wait", wait)
    counted._follow()
    assert [at_once for _, at_once in asked.reasons] == [False]
    assert counted._ledger.cost() == pytest.approx(135.0)
    assert counted._error is None


def test_a_cap_that_is_passed_ends_a_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[None] = []
    monkeypatch.setattr(stopping, "_interrupt_main_thread", lambda: sent.append(None))
    journal = FileJournal(tmp_path)
    request = StopRequest(journal)
    journal.status(0, phase="computing")
    reason = CapReached("max_cost", 1.0, "the run has ended", "Give more")
    for at_once in (False, True, True):
        request.cap(reason, at_once=at_once)
    assert len(sent) == 1


def test_what_was_spent_before_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, nodes = clock(monkeypatch), [node("a", instance_type="box", market="spot")]
    with Spending(tmp_path, CostConfig(), PRICES, Asked(), nodes=lambda: nodes):
        now[0] += 100.0
    for cap, told in ((100.0, "the run has cost EUR 50.00, and 120 s"), (120.0, None)):
        again = Spending(tmp_path, CostConfig(max_cost=cap), PRICES, Asked(), nodes=lambda: nodes)
        if told is None:
            with again:
                continue
        with pytest.raises(ConfigError, match=told), again:
            pass
    dollars = dataclasses.replace(PRICES, currency="USD")
    with pytest.raises(ConfigError, match="is in USD, and this run has counted in EUR"):
        Spending(tmp_path, CostConfig(), dollars, Asked(), nodes=lambda: nodes).__enter__()


def test_a_cap_needs_a_price_for_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch)
    nodes = [node("a", instance_type="box"), node("b")]
    capped = CostConfig(max_cost=1e6)
    with (
        pytest.raises(ConfigError, match="no price for a machine without the label instance-type"),
        Spending(tmp_path, capped, PRICES, Asked(), nodes=lambda: nodes),
    ):
        pass
    asked, later = Asked(), nodes[:1]
    with Spending(tmp_path, capped, PRICES, asked, nodes=lambda: later) as counted:
        later.append(node("c", instance_type="crate", market="spot"))
        counted._look()
        counted._check()
    assert "there is no price for crate spot" in asked.reasons[0][0]
    assert "Fill it in, and repeat the command to go on." in asked.reasons[0][0]


def test_a_cap_before_any_worker_trains_ends_at_once(tmp_path: Path, usual_signals: None) -> None:
    journal = FileJournal(tmp_path)
    request = StopRequest(journal)
    reason = CapReached("max_cost", 1.0, "the run has ended", "Give more")
    with pytest.raises(KeyboardInterrupt):
        request.cap(reason, at_once=False)
    with pytest.raises(CapReached):
        request.check()


@pytest.fixture
def priced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CostConfig:
    """Costs of a machine whose first look after the start passes any cap below EUR 1000."""
    path = tmp_path / "prices.yaml"
    path.write_text("currency: EUR\nmachines: {box: {cpus: 2, on_demand: 3600, spot: 1}}")
    monkeypatch.setattr(spending, "INTERVAL_S", 0.01)
    monkeypatch.setattr(spending, "RESERVE_S", 0.0)
    return CostConfig(prices=str(path), machine="box")


def test_a_capped_run_is_saved_and_goes_on_with_a_larger_cap(
    prepared: str,
    tmp_path: Path,
    priced: CostConfig,
    monkeypatch: pytest.MonkeyPatch,
    usual_signals: None,
) -> None:
    whole = classification(prepared, tmp_path / "whole")
    train_alone(whole)
    config = dataclasses.replace(classification(prepared, tmp_path), cost=priced)
    capped = dataclasses.replace(config, cost=dataclasses.replace(priced, max_cost=0.001))
    with monkeypatch.context() as patch:
        patch.setattr(Spending, "_check", capped_at_step(5))
        with pytest.raises(CapReached) as caught:
            run(capped, command="finetune", console=Console(stream=io.StringIO()))
    assert caught.value.exit_code == 3
    folder = tmp_path / "run"
    assert read_run(folder).status == "capped"
    saved = open_checkpoints(config).steps()[-1]
    assert 0 < saved < 8
    assert not (folder / EXPORT).exists()
    stream = io.StringIO()
    run(config, command="finetune", console=Console(stream=stream))
    assert final_digest(config) == final_digest(whole)
    record = read_run(folder)
    assert record.status == "finished"
    assert "The machines cost EUR " in stream.getvalue()
    assert len(record.costs.holdings) == 2
    bill = bill_of(record)
    assert 0 < bill.lost + bill.before <= record.costs.cost()
    assert overview(read_runs(str(tmp_path))[0])["cost"].startswith("EUR ")
    assert "lost to restarts" in write_report(folder).read_text()


def capped_at_step(step: int):
    """A check that finds the cap reached once a run has done some steps."""

    def check(self: Spending) -> None:
        done = read_lines(self._journal.folder / "metrics.jsonl")
        if done and done[-1]["step"] >= step:
            self._run.cap(self._reason("it has cost EUR 1", "Give more"), at_once=False)

    return check


def test_the_command_line_says_so_and_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from itpn_ray.training.launch import driver

    seen: list[ExperimentConfig] = []

    def capped(config: ExperimentConfig, **rest: object) -> None:
        seen.append(config)
        raise CapReached("max_cost", 200.0, "the run has ended", "Repeat it with more")

    monkeypatch.setattr(driver, "run", capped)
    words = ["finetune", "nano", "--max-cost", "200", "--machine", "box", "--prices", "s3://b/p"]
    assert cli.run(words) == 3
    assert "itpn-ray finetune: max_cost = 200.0: the run has ended." in capsys.readouterr().err
    assert seen[0].cost == CostConfig(max_cost=200.0, machine="box", prices="s3://b/p")


def test_the_bill_is_cut_by_what_trained_nothing(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"run": "r", "optim": {"epochs": 1.0}}))
    (tmp_path / "plan.json").write_text(json.dumps({"currency": "EUR", "low": 90, "high": 150}))
    events = [
        (0, {"event": "start"}),
        (10, {"event": "begin", "step": 0}),
        (60, {"event": "resume", "step": 5, "saved": 40}),  # a worker was lost
        (70, {"event": "restart"}),  # the driver was killed, 30 s before
        (80, {"event": "resume", "step": 5, "saved": 35}),
        (100, {"event": "end", "status": "FINISHED"}),
    ]
    for at, event in events:
        journal.write("event", {"time": float(at), **event})
    plain = {"node": "a", "machine": "box", "market": "spot", "price": 3600.0}
    rows = [{**plain, "begin": 0.0, "end": 60.0}, {**plain, "begin": 70.0, "end": 100.0}]
    journal.file(COSTS, json.dumps({"currency": "EUR", "holdings": rows}).encode())
    bill = bill_of(read_run(tmp_path))
    assert bill.as_metrics() == pytest.approx(
        {
            "cost/machine_hours": 90 / 3600,
            "cost/total": 90,
            "cost/restarts": 35,
            "cost/starting": 10,
        }
    )
    assert bill.sentence() == (
        "The machines cost EUR 90.00 for 1 min 30 s in all. Of that EUR 10.00 before the first "
        "step, and EUR 35.00 lost to restarts. Planned: EUR 90.00 to EUR 150.00."
    )
    assert bill.rows() == [
        {
            "machine": "box",
            "market": "spot",
            "machines": 1,
            "held": "1 min 30 s",
            "an hour": "EUR 3,600",
            "cost": "EUR 90.00",
        }
    ]


def test_events_of_a_capped_run(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    request = StopRequest(journal)
    journal.status(0, phase="computing")
    request.cap(CapReached("max_cost", 1.0, "the run has ended", "Give more"), at_once=False)
    assert journal.stop_asked()
    assert read_lines(tmp_path / EVENTS)[-1]["event"] == "cap"


def test_a_sweep_ends_at_its_cap_and_has_one_bill(usual_signals: None) -> None:
    stop = SweepStop()
    reason = CapReached("max_cost", 1.0, "the run has ended", "Give more")

    def trials() -> None:
        stop.cap(reason, at_once=False)
        time.sleep(60)

    with pytest.raises(CapReached), stop.answered():
        trials()
    with pytest.raises(KeyboardInterrupt), SweepStop().answered():
        raise KeyboardInterrupt
    capped = dataclasses.replace(ExperimentConfig(), cost=CostConfig(max_cost=1.0))
    with pytest.raises(ConfigError, match=r"pretrain\.max_cost = 1\.0: .* a sweep has one bill"):
        SweepConfig(pretrain=capped)


def test_a_tracker_gets_the_bill(tmp_path: Path) -> None:
    journal, tracker = FileJournal(tmp_path), MemoryTracker()
    (tmp_path / "config.json").write_text(json.dumps({"run": "r", "optim": {"epochs": 1.0}}))
    row = {
        "node": "a",
        "machine": "box",
        "market": "spot",
        "price": 36.0,
        "begin": 0.0,
        "end": 50.0,
    }
    journal.file(COSTS, json.dumps({"currency": "EUR", "holdings": [row]}).encode())
    tracker.start("r", {}, key="r")
    stream = io.StringIO()
    with recorded_end(journal, tmp_path, tracker, Console(stream=stream)):
        pass
    assert tracker.run.metrics["cost/total"] == {50: pytest.approx(0.5)}
    assert tracker.run.metrics["cost/machine_hours"] == {50: pytest.approx(50 / 3600)}
    assert "The machines cost EUR 0.50 for 50 s in all." in stream.getvalue()
