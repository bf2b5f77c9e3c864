from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from itpn_ray.errors import ConfigError, RunError
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import _patiently, _private_head, environment, is_private, start_ray


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"address": "http://127.0.0.1:8265"}, "itpn-ray submit --address http://127.0.0.1:8265"),
        ({"num_cpus": 0}, "ray.num_cpus = 0"),
        ({"num_gpus": -1}, "ray.num_gpus = -1"),
        ({"address": "10.0.0.1:6379", "num_cpus": 2}, "the cluster at 10.0.0.1:6379"),
        ({"address": "auto", "num_gpus": 0}, "ray.num_gpus = 0"),
        ({"object_store_gb": 0.0}, "ray.object_store_gb"),
        ({"health_check_interval_s": -1.0}, "ray.health_check_interval_s"),
        ({"worker_start_timeout_s": 0.0}, "ray.worker_start_timeout_s"),
        ({"resize_interval_s": 0.0}, "ray.resize_interval_s"),
    ],
)
def test_a_wrong_field_is_named(options, named):
    with pytest.raises(ConfigError, match="ray") as caught:
        RayConfig(**options)
    assert named in str(caught.value)


def test_configuration_imports_no_ray():
    modules = "itpn_ray.ray_runtime.config, itpn_ray.ray_runtime.start"
    script = f"import sys, {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_nobody_at_the_address_is_told_at_once():
    script = (
        "from itpn_ray.ray_runtime.config import RayConfig\n"
        "from itpn_ray.ray_runtime.start import _patiently, start_ray\n"
        "with start_ray(RayConfig(address='127.0.0.1:9')): pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ray.address = '127.0.0.1:9': no Ray cluster answers there" in done.stderr
    assert "Connection refused" in done.stderr  # the first try says so; Ray asks for 20 s


@pytest.mark.parametrize(
    ("place", "cause"), [("x" * 90, "more than 107 bytes"), ("file/below", "Not a directory")]
)
def test_a_place_that_ray_cannot_use_is_told(place, cause, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / place))
    head = _private_head(RayConfig(), False)
    with pytest.raises(ConfigError, match=cause) as caught:
        head.__enter__()
    assert str(caught.value).startswith(f"RAY_TMPDIR = '{tmp_path / place}': Ray cannot keep its")
    assert "short path" in str(caught.value)


def test_a_running_ray_is_used_and_left_running(ray_cluster):
    import ray

    with start_ray(RayConfig(num_cpus=1)) as address:
        assert address == ray_cluster
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 4


def test_workers_inherit_the_settings(ray_cluster):
    import ray

    @ray.remote
    def environment() -> dict[str, str]:
        return dict(os.environ)

    seen = ray.get(environment.remote())
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.1"
    assert seen["RAY_DATA_DISABLE_PROGRESS_BARS"] == "1"
    assert seen["OMP_NUM_THREADS"] == "1"


def servers() -> dict[str, psutil.Process]:
    """What Ray runs beside the workers, by the last part of its program's name."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        for part in process.cmdline():
            if "/ray/" in part:
                found[part.rsplit("/ray/", 1)[1]] = process
                break
    return found


def test_a_private_ray_has_what_a_run_needs_and_no_more(ray_cluster):
    assert is_private()
    names = " ".join(servers())
    assert "raylet" in names
    assert "log_monitor" not in names
    assert "monitor.py" not in names


def test_workers_of_a_private_ray_have_the_priority_of_their_driver(ray_cluster):
    import ray

    assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)


def test_a_private_ray_without_a_dashboard_does_not_measure_itself(ray_cluster):
    raylet = next(process for name, process in servers().items() if name.endswith("raylet"))
    assert raylet.environ()["RAY_enable_metrics_collection"] == "0"
    assert raylet.environ()["REPORTER_UPDATE_INTERVAL_MS"] == "60000"
    assert "RAY_enable_metrics_collection" not in os.environ  # of a cluster that is joined later


def test_a_verbose_ray_brings_what_workers_print_and_serves_beside_another_dashboard():
    script = (
        "import ray\n"
        "from itpn_ray.ray_runtime.config import RayConfig\n"
        "from itpn_ray.ray_runtime.start import dashboard_address, start_ray\n"
        "@ray.remote\n"
        "def speak(): print('told by a worker')\n"
        "config = RayConfig(num_cpus=1, object_store_gb=0.1, dashboard=True)\n"
        "with start_ray(config, verbose=True):\n"
        "    ray.get(speak.remote())\n"
        "    print('served at', dashboard_address())\n"
        "    input()"
    )
    command = [sys.executable, "-u", "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with socket.socket() as another, subprocess.Popen(command, text=True, **pipes) as process:
        with suppress(OSError):  # a dashboard has the port already
            another.bind(("127.0.0.1", 8265))
            another.listen()
        missing = ["told by a worker", "served at http://127.0.0.1:"]
        for line in process.stdout:
            missing = [text for text in missing if text not in line]
            if not missing:
                break
        process.communicate("\n")
    assert not missing


def test_a_private_ray_leaves_nobody_behind_not_even_who_hangs_in_its_exit():
    script = (
        "import os, ray, time\n"
        "from itpn_ray.ray_runtime.config import RayConfig\n"
        "from itpn_ray.ray_runtime.start import start_ray\n"
        "@ray.remote\n"
        "class Hanging:\n"
        "    def pid(self): return os.getpid()\n"
        "    def leave(self):\n"
        "        import atexit\n"
        "        atexit.register(time.sleep, 600)\n"
        "        ray.actor.exit_actor()\n"
        "with start_ray(RayConfig(num_cpus=1, object_store_gb=0.1)):\n"
        "    actor = Hanging.remote()\n"
        "    print(ray.get(actor.pid.remote()), flush=True)\n"
        "    actor.leave.remote()\n"
        "    time.sleep(3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(done.stdout)).status() == psutil.STATUS_ZOMBIE  # not yet reaped


def test_a_private_ray_whose_raylet_was_killed_is_left_like_any_other():
    script = (
        "import psutil\n"
        "from itpn_ray.ray_runtime.config import RayConfig\n"
        "from itpn_ray.ray_runtime.start import start_ray\n"
        "with start_ray(RayConfig(num_cpus=1, object_store_gb=0.1)):\n"
        "    children = psutil.Process().children()\n"
        "    raylet = next(child for child in children if child.name() == 'raylet')\n"
        "    raylet.kill()\n"
        "    raylet.wait(120)\n"
        "print('left')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "left" in done.stdout, done.stderr


def test_settings_hold_for_a_while_and_never_against_the_user(monkeypatch):
    monkeypatch.setenv("OF_THE_USER", "theirs")
    monkeypatch.delenv("OF_NOBODY", raising=False)
    with environment({"OF_THE_USER": "ours", "OF_NOBODY": "ours"}):
        assert (os.environ["OF_THE_USER"], os.environ["OF_NOBODY"]) == ("theirs", "ours")
    assert os.environ["OF_THE_USER"] == "theirs"
    assert "OF_NOBODY" not in os.environ


def test_a_crowded_machine_gets_another_try_and_nothing_of_the_first_is_left():
    started = []

    def start() -> str:
        started.append(subprocess.Popen(["sleep", "600"]))
        if len(started) < 3:
            raise Exception("The current node timed out during startup.")
        return "started"

    assert _patiently(start) == "started"
    for process in started[:2]:
        process.wait(timeout=120)
    assert started[-1].poll() is None
    started[-1].kill()
    for process in started:
        process.wait()


def test_a_machine_that_stays_too_busy_and_other_errors_are_told():
    def slow() -> None:
        raise Exception("The current node timed out during startup.")

    def broken() -> None:
        raise ValueError("another error")

    with pytest.raises(RunError, match="too busy"):
        _patiently(slow)
    with pytest.raises(ValueError, match="another error"):
        _patiently(broken)
