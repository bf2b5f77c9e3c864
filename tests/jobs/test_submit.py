from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from itpn_ray.errors import ConfigError
from jobs.config import SubmitConfig
from jobs.submit import JobLost, _driver_place, _follow, run_command, submit
from tests.s3 import free_port


def test_a_verb_runs_with_this_source_and_its_log_is_followed(head, capfd):
    # The first job also waits for the head, which has only just been started.
    config = SubmitConfig(address=head.jobs_address, name="help", connect_timeout_s=60.0)
    assert submit(config, ["--help"]) == 0
    printed = capfd.readouterr().out
    assert "pretrain" in printed
    assert f"ray job stop --address {head.jobs_address} help" in printed


def test_the_exit_code_the_variables_and_the_source_go_along(head, capfd, monkeypatch):
    monkeypatch.setenv("ITPN_CANARY", "canary-f1e2d3")
    config = SubmitConfig(address=head.jobs_address, env=("ITPN_CANARY",))
    script = (
        "import os, sys, itpn_ray, jobs; print(os.environ['ITPN_CANARY'], itpn_ray.__path__[0]);"
        "sys.exit(7)"
    )
    name = "seven"
    assert run_command(config, name, f'python -c "{script}"') == 7
    printed = capfd.readouterr().out
    assert "canary-f1e2d3" in printed
    assert str(head.folder) in printed  # the package came with the job, not from this checkout
    assert os.getcwd() not in printed.replace(str(head.folder), "")
    job_log = f"job-driver-{name}.log"
    for path in head.folder.rglob("*"):
        if path.is_file() and path.name != job_log:  # which holds what the job itself printed
            assert b"canary-f1e2d3" not in path.read_bytes(), path


def test_a_name_in_use_is_refused(head):
    config = SubmitConfig(address=head.jobs_address)
    assert run_command(config, "twice", "true") == 0
    with pytest.raises(ConfigError, match=r"'twice'.*a job of this name"):
        run_command(config, "twice", "true")


def test_an_interrupt_leaves_the_job_running(head):
    script = (
        "from jobs.config import SubmitConfig; from jobs.submit import run_command; import sys;"
        # Where the tests run in the background, the shell has them ignore interrupts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"config = SubmitConfig(address={head.jobs_address!r});"
        "sys.exit(run_command(config, 'long', 'echo it began; sleep 600'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script], stdout=subprocess.PIPE, text=True
    )
    lines = iter(process.stdout.readline, "")
    assert any("it began" in line for line in lines)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=120) == 130
    assert "the job long goes on" in rest
    assert f"ray job logs --follow --address {head.jobs_address} long" in rest

    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(head.jobs_address)
    assert client.get_job_status("long") == JobStatus.RUNNING
    client.stop_job("long")


def test_another_token_is_refused_in_one_line(head):
    script = (
        "from jobs.config import SubmitConfig; from jobs.submit import submit;"
        f"submit(SubmitConfig(address={head.jobs_address!r}), ['demo'])"
    )
    environment = os.environ | {"RAY_AUTH_TOKEN": "another-token-0123456789abcdef"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "does not take this machine's token" in done.stderr


class _BrokenClient:
    """A job server that sends half of a log, breaks, starts again, and then is gone."""

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks

    async def tail_job_logs(self, name):
        yield "one\n"
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "two\n"

    def get_job_info(self, name):
        return SimpleNamespace(
            status=SimpleNamespace(is_terminal=lambda: True), driver_exit_code=-9, message=""
        )


def test_a_broken_connection_is_taken_up_where_it_broke(capfd):
    config = SubmitConfig(address="http://127.0.0.1:9")
    assert _follow(config, _BrokenClient(breaks=2), "job") == 128 + 9
    assert capfd.readouterr().out == "one\ntwo\n"


def test_a_cluster_that_stays_away_is_told():
    config = SubmitConfig(address="http://127.0.0.1:9", connect_timeout_s=0.5)
    with pytest.raises(JobLost, match=r"http://127.0.0.1:9 stopped answering .* may still run"):
        _follow(config, _BrokenClient(breaks=1000), "job")


def test_nobody_at_the_address():
    config = SubmitConfig(address=f"http://127.0.0.1:{free_port()}", connect_timeout_s=1.0)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="no job server answered for 1 s"):
        submit(config, ["demo"])
    assert time.monotonic() - began < 30


def test_a_variable_that_is_not_set_is_told_before_anything_is_sent():
    config = SubmitConfig(address="http://127.0.0.1:9", env=("ITPN_NOT_SET_ANYWHERE",))
    with pytest.raises(ConfigError, match="ITPN_NOT_SET_ANYWHERE"):
        submit(config, ["demo"])


def test_no_verb_is_told():
    with pytest.raises(ConfigError, match="no verb"):
        submit(SubmitConfig(address="http://127.0.0.1:9"), [])


@pytest.mark.parametrize(
    ("head_market", "where"),
    [("spot", {"entrypoint_label_selector": {"market": "!spot"}}), ("on-demand", {}), (None, {})],
)
def test_a_driver_is_sent_where_its_machine_stays(monkeypatch, head_market, where):
    sent = []
    head = SimpleNamespace(labels={"market": head_market} if head_market else None)
    nodes = [
        SimpleNamespace(labels=head.labels, is_head_node=True),
        SimpleNamespace(labels={"market": "on-demand"}, is_head_node=False),
    ]
    client = SimpleNamespace(submit_job=lambda **given: sent.append(given))
    monkeypatch.setattr("jobs.submit._connect", lambda config: client)
    monkeypatch.setattr("ray.util.state.list_nodes", lambda **asked: nodes)
    config = SubmitConfig(address="http://127.0.0.1:9", follow=False)
    assert run_command(config, "job", "true") == 0
    (given,) = sent
    assert {name: given[name] for name in given if name.endswith("selector")} == where


def test_the_heads_labels_are_read_from_a_real_one(head):
    config = SubmitConfig(address=head.jobs_address)
    assert _driver_place(config) is None
    from ray.util.state import list_nodes

    (node,) = list_nodes(address=head.jobs_address)
    assert node.is_head_node
    assert node.labels["ray.io/node-id"] == node.node_id
