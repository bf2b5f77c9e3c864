"""clusters/slurm.sh in a stand-in for SLURM, whose srun starts what it is given on this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "clusters" / "slurm.sh")

SRUN = f"""#!{sys.executable}
# Notes the options that choose nodes, runs the command once for each task, and ends all of it on
# SIGTERM, as SLURM ends a step.
import os, signal, subprocess, sys
words = sys.argv[1:]
first = next(i for i, word in enumerate(words) if not word.startswith("--"))
options = dict(word[2:].split("=") for word in words[:first] if "=" in word)
with open(os.environ["NOTES"], "a") as notes:
    chosen = [name for name in ("nodelist", "exclude") if name in options]
    notes.writelines(f"srun {{name}}={{options[name]}}\\n" for name in chosen)
tasks = []
def end(number, frame):
    for task in tasks:
        os.killpg(task.pid, signal.SIGKILL)
    os._exit(143)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.signal(signal.SIGTERM, end)
unblock = lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
for _ in range(int(options.get("ntasks", 1))):
    tasks.append(subprocess.Popen(words[first:], start_new_session=True, preexec_fn=unblock))
unblock()
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) printf 'node%s\\n' 1 2 3 ;;
    *) echo "scontrol $*" >> "$NOTES" ;;
esac
"""
HOSTNAME = """#!/bin/bash
echo "${ADDRESSES:-127.0.0.1 192.0.2.7}"
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$NOTES"
case $1 in
    status) [[ $(grep -c "ray start" "$NOTES") == 3 ]] ;; # all nodes are there
    start) exec sleep 600 ;;
esac
"""
ITPN_RAY = """#!/bin/bash
echo "itpn-ray $* on $RAY_ADDRESS" >> "$NOTES"
trap 'echo saved >> "$NOTES"; exit 143' TERM
if [[ $1 == long ]]; then echo began >> "$NOTES"; for _ in $(seq 600); do sleep 0.1; done; fi
exit "${2:-0}"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three nodes."""
    programs = {"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME}
    for name, text in programs.items():
        write(tmp_path / name, text)
    for name, text in {"ray": RAY, "itpn-ray": ITPN_RAY}.items():
        write(tmp_path / "bin" / name, text)
    usual = {n: v for n, v in os.environ.items() if not n.startswith(("SLURM", "RAY", "ITPN"))}
    return usual | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "ITPN_RAY_BIN": str(tmp_path / "bin"),
        "ITPN_RAY_LABELS": "instance-type=p5.48xlarge,market=on-demand",
        "RAY_AUTH_TOKEN": "canary-token-0123456789",
        "SLURM_JOB_ID": "71",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_GPUS_ON_NODE": "8",
    }


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def notes(slurm: dict[str, str]) -> list[str]:
    path = Path(slurm["NOTES"])
    return path.read_text().splitlines() if path.exists() else []


def test_the_shell_reads_it() -> None:
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_a_head_nodes_and_the_verb_are_started_and_end(slurm: dict[str, str], code: int) -> None:
    words = ["bash", SCRIPT, "pretrain", str(code)]
    done = subprocess.run(words, env=slurm, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == code, done.stderr
    said = notes(slurm)
    (head,) = (line for line in said if line.startswith("ray start --head"))
    others = [line for line in said if line.startswith("ray start --block --address")]
    assert "--node-ip-address=127.0.0.1 --port=20071" in head
    assert len(others) == 2
    for line in (head, *others):
        assert "--num-cpus=64 --num-gpus=8" in line
        assert "--labels=instance-type=p5.48xlarge,market=on-demand" in line
    assert f"itpn-ray pretrain {code} on 127.0.0.1:20071" in said
    assert {"srun nodelist=node1", "srun exclude=node1"} <= set(said)
    assert not any("requeue" in line for line in said)
    assert "canary" not in "\n".join([*said, done.stdout, done.stderr])


def test_before_the_time_limit_the_run_saves_and_is_queued_again(slurm: dict[str, str]) -> None:
    process = subprocess.Popen(["bash", SCRIPT, "long"], env=slurm, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while "began" not in notes(slurm):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B:TERM does
        assert process.wait(60) == 143
    finally:
        process.kill()
    assert [line for line in notes(slurm) if line.startswith(("saved", "scontrol"))] == [
        "saved",
        "scontrol requeue 71",
    ]


@pytest.mark.parametrize(
    ("words", "missing", "told"),
    [
        ((), "", "no verb"),
        (("demo",), "SLURM_JOB_ID", "this is no SLURM job"),
        (("demo",), "RAY_AUTH_TOKEN", "holds no token"),
    ],
)
def test_what_is_missing_is_told(
    slurm: dict[str, str], tmp_path: Path, words: tuple[str, ...], missing: str, told: str
) -> None:
    slurm.pop(missing, None)
    done = subprocess.run(
        ["bash", SCRIPT, *words],
        env=slurm | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert notes(slurm) == []


@pytest.mark.slow
def test_with_a_real_ray_a_verb_runs_on_it(slurm: dict[str, str]) -> None:
    """Two more nodes on this machine; the verb lists what its cluster has."""
    bin_folder = Path(sys.executable).parent
    verb = Path(slurm["ITPN_RAY_BIN"]) / "itpn-ray"
    write(
        verb,
        f"#!{sys.executable}\nimport os, ray\nray.init(os.environ['RAY_ADDRESS'])\n"
        "print('nodes', len([n for n in ray.nodes() if n['Alive']]))\n",
    )
    (verb.parent / "ray").unlink()
    (verb.parent / "ray").symlink_to(bin_folder / "ray")
    address = {"ADDRESSES": ray.util.get_node_ip_address()}
    small = address | {
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
        "RAY_AUTH_MODE": "token",
    }
    done = subprocess.run(
        ["bash", SCRIPT, "any"],
        env=slurm | small,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"nodes [1-4]", done.stdout)
