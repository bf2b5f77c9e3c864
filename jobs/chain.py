"""The steps of a job file, one after the other, on the cluster: ``python -m jobs.chain JSON``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from itpn_ray import cli
from itpn_ray.storage import open_store
from jobs.files import Job, Step


def as_argument(job: Job) -> str:
    """A job as one word of a command line."""
    steps = [{"name": step.name, "words": step.words} for step in job.steps]
    return json.dumps({"name": job.name, "done": job.done, "steps": steps})


def from_argument(text: str) -> Job:
    """The job that `as_argument` wrote."""
    plain = json.loads(text)
    steps = tuple(Step(name=one["name"], words=tuple(one["words"])) for one in plain["steps"])
    return Job(name=plain["name"], steps=steps, done=plain["done"])


def run_chain(job: Job, run: Callable[[list[str]], int] = cli.run) -> int:
    """Run the steps that have not been done, until one fails.

    A step counts as done where it and all before it had the same words.

    Args:
        job: several steps.
        run: runs a verb and returns its exit code.

    Returns:
        0, or the exit code of the step that failed.
    """
    store = open_store(job.done)
    for number, step in enumerate(job.steps, start=1):
        # A step counts as done only behind the same steps before it.
        key, so_far = f"{step.name}.json", json.dumps([one.words for one in job.steps[:number]])
        if store.exists(key) and store.read_bytes(key).decode() == so_far:
            print(f"step {step.name} was done before", flush=True)
            continue
        print(f"step {step.name}, {number} of {len(job.steps)}", flush=True)
        if code := run(list(step.words)):
            print(f"step {step.name} ended with exit code {code}; send the job again to go on")
            return code
        store.write_bytes(key, so_far.encode())
    return 0


if __name__ == "__main__":
    sys.exit(run_chain(from_argument(sys.argv[1])))
