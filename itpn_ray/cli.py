"""The command line: one verb a command, heavy imports only once a verb runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from itpn_ray import checks, renamed
from itpn_ray.commands import (
    doctor,
    export,
    inspect,
    prepare,
    preview,
    report,
    reproduce,
    runs,
    submit,
    synthesize,
    train,
    tune,
    visualize,
)
from itpn_ray.commands.cache_teacher import command as cache_teacher
from itpn_ray.commands.chaos import command as chaos
from itpn_ray.commands.demo import command as demo
from itpn_ray.commands.evaluate import command as evaluate
from itpn_ray.commands.features import command as features
from itpn_ray.commands.plan import command as plan
from itpn_ray.commands.predict import command as predict
from itpn_ray.commands.verify_resume import command as verify_resume
from itpn_ray.errors import ItpnError, of_machine
from itpn_ray.interrupt import Interrupted, answering, interrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit with what `run` returns."""
    code = 128 + signal.SIGPIPE
    try:
        try:
            code = run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who read the output has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a verb and return its exit code.

    0; 1 for a defect, or where a part of the work failed; 2 for a mistake in the input or on this
    machine; 3 for a run that ended at --max-cost; 130 after Ctrl-C, 143 after SIGTERM.
    """
    verbose = "-v" in arguments or "--verbose" in arguments
    rest = [argument for argument in arguments if argument not in ("-v", "--verbose")]
    if not rest or rest[0] in ("-h", "--help"):
        print(overview())
        return 0
    verb, *rest = rest
    verb = renamed.verb_today(verb)
    try:
        checks.one_of("verb", verb, VERBS)
        with answering(interrupt, signal.SIGINT, signal.SIGTERM):
            return VERBS[verb][0](rest, verbose)
    except ItpnError as error:
        return _refuse(verb, error)
    except OSError as error:
        if (known := of_machine(error)) is None:
            raise
        return _refuse(verb, known)
    except KeyboardInterrupt as asked:
        print(f"itpn-ray {verb}: interrupted; repeat the command to go on", file=sys.stderr)
        return asked.exit_code if isinstance(asked, Interrupted) else 130


def _refuse(verb: str, error: ItpnError) -> int:
    print(f"itpn-ray {verb}: {error}", file=sys.stderr)
    return error.exit_code


def overview() -> str:
    """What `itpn-ray --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {help_line}" for verb, (_, help_line) in VERBS.items()]
    return "\n".join(
        [
            "usage: itpn-ray VERB [...] [-v]",
            "",
            "Pre-train, fine-tune and tune Fast-iTPN on your own images with Ray.",
            "",
            *lines,
            "",
            "itpn-ray VERB --help lists a verb's options; -v shows what Ray prints.",
            "Switches are written --gpus, --no-gpus or --gpus false.",
        ]
    )


VERBS: dict[str, tuple[Callable[[list[str], bool], int], str]] = {
    "demo": (demo.run, demo.HELP),
    "synthesize": (synthesize.run, synthesize.HELP),
    "prepare": (prepare.run, prepare.HELP),
    "plan": (plan.run, plan.HELP),
    "cache-teacher": (cache_teacher.run, cache_teacher.HELP),
    "pretrain": (train.pretrain, train.PRETRAIN_HELP),
    "finetune": (train.finetune, train.FINETUNE_HELP),
    "detect": (train.detect, train.DETECT_HELP),
    "segment": (train.segment, train.SEGMENT_HELP),
    "evaluate": (evaluate.run, evaluate.HELP),
    "predict": (predict.run, predict.HELP),
    "features": (features.run, features.HELP),
    "tune": (tune.run, tune.HELP),
    "reproduce": (reproduce.run, reproduce.HELP),
    "inspect": (inspect.run, inspect.HELP),
    "export": (export.run, export.HELP),
    "visualize": (visualize.run, visualize.HELP),
    "doctor": (doctor.run, doctor.HELP),
    "preview": (preview.run, preview.HELP),
    "runs": (runs.run, runs.HELP),
    "report": (report.run, report.HELP),
    "verify-resume": (verify_resume.run, verify_resume.HELP),
    "chaos": (chaos.run, chaos.HELP),
    "submit": (submit.run, submit.HELP),
}
"""Verb -> what runs it, and its line in the overview."""


if __name__ == "__main__":
    main()
