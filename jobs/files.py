"""Job files: the steps of a job in YAML, checked by the parsers of their verbs before sending.

::

    name: pretrain                  # of the job on the cluster
    values:                         # changed by --set data=s3://mine/prepared
      data: s3://YOUR-BUCKET/prepared
    done: s3://YOUR-BUCKET/chain    # where finished steps are noted; of files with several steps
    steps:
      - name: pretrain
        run: pretrain nano          # a verb and what stands before its options
        options:                    # changed by --set pretrain.workers=4
          data: ${data}
          workers: 4..24
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from itpn_ray import arguments, checks
from itpn_ray.cli import VERBS
from itpn_ray.errors import ConfigError

_JOB_KEYS = ("name", "values", "done", "steps")
_STEP_KEYS = ("name", "run", "options")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_REFERENCE = re.compile(r"\$\{(\w+)\}")
_NO_JOBS = ("submit", "chaos")
"""Verbs that do not run on a cluster."""

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a job.

    Attributes:
        name: which no other step of the job has.
        words: as they would stand after ``itpn-ray``.
    """

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job file asks for.

    Attributes:
        name: of the job; others of this name get a suffix.
        steps: in order.
        done: where finished steps are noted; empty where there is one step.
    """

    name: str
    steps: tuple[Step, ...]
    done: str


def read_job(path: str, changes: Sequence[str] = ()) -> Job:
    """Read a job file and check it whole, down to the options of its verbs.

    Args:
        path: of the file.
        changes: ``NAME=VALUE`` of values, ``STEP.OPTION=VALUE`` of options.

    Raises:
        ConfigError: names the file or field, the value, and the nearest right one.
    """
    plain = _read(path)
    _check_keys(path, plain, _JOB_KEYS, needed=("name", "steps"))
    _check_name(path, plain["name"])
    values = _scalars(path, "values", plain.get("values") or {})
    steps = [_plain_step(path, step) for step in _sequence(path, "steps", plain["steps"])]
    names = [str(step["name"]) for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: steps", name, "stands there twice", "Rename one")
    _apply(path, changes, values, {str(step["name"]): step["options"] for step in steps})
    done = _filled(path, str(plain.get("done") or ""), values)
    _check_done(path, done, len(steps))
    return Job(
        name=plain["name"],
        steps=tuple(_step(path, step, values) for step in steps),
        done=done,
    )


def _read(path: str) -> dict[str, Any]:
    try:
        # All values stay texts: `workers: 010` and `gpus: no` are what the command line reads.
        plain = yaml.load(Path(path).read_text(), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(
            "job", path, f"cannot be read ({error.strerror})", "Name a file such as jobs/chain.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "job", path, f"is no YAML ({' '.join(str(error).split())})", "Mend it there"
        ) from error
    if not isinstance(plain, dict):
        raise ConfigError("job", path, "is no job file", "Write it as jobs/chain.yaml is written")
    return plain


def _check_keys(
    where: str, plain: Mapping[str, Any], known: Collection[str], needed: Collection[str]
) -> None:
    for key in plain:
        checks.one_of(f"{where}: key", str(key), known)
    for key in needed:
        if not plain.get(key):
            raise ConfigError(where, None, f"has no {key}", f"Add {key}: ...")


def _check_name(path: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: name",
            name,
            "is no name of a job or step",
            "Use up to 31 small letters, digits and dashes, a letter first",
        )


def _check_done(path: str, done: str, steps: int) -> None:
    if steps > 1 and not ("://" in done or done.startswith("/")):
        raise ConfigError(
            f"{path}: done",
            done,
            "is no place that the cluster keeps",
            "Name a URI or an absolute folder, where finished steps are noted",
        )


def _sequence(path: str, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{path}: {key}", value, "is no list", "Begin each entry with a dash")
    return value


def _scalars(path: str, key: str, value: Any) -> dict[str, str]:
    """A flat mapping of names to texts."""
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ConfigError(f"{path}: {key}", value, "is no list of NAME: VALUE", "Write it so")
    return dict(value)


def _plain_step(path: str, step: Any) -> dict[str, Any]:
    """A step as it stands in the file, with its options."""
    if not isinstance(step, dict):
        raise ConfigError(f"{path}: steps", step, "is no step", "Give it a name, run and options")
    where = f"{path}: {step.get('name', 'step')}"
    _check_keys(where, step, _STEP_KEYS, needed=("name", "run"))
    _check_name(path, step["name"])
    options = step.get("options") or {}
    if not isinstance(options, dict):
        raise ConfigError(f"{where}.options", options, "is no list of OPTION: VALUE", "Write it so")
    return {**step, "options": dict(options)}


def _apply(
    path: str, changes: Sequence[str], values: dict[str, str], options: Mapping[str, Options]
) -> None:
    """Change values and options in place."""
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError("set", change, "is no NAME=VALUE", "Write --set NAME=VALUE")
        step, dot, option = key.partition(".")
        if dot:
            checks.one_of(f"set {key}: step of {path}", step, options)
            options[step][option] = value
        else:
            checks.one_of(f"set: value of {path}", key, values)
            values[key] = value


def _filled(path: str, text: str, values: Mapping[str, str]) -> str:
    """A text with ``${NAME}`` replaced."""
    for name in _REFERENCE.findall(text):
        checks.one_of(f"{path}: value of {text}", name, values)
        if "YOUR-" in values[name]:
            raise ConfigError(
                f"{path}: values.{name}",
                values[name],
                "is a placeholder",
                f"Give yours with --set {name}=VALUE",
            )
    return _REFERENCE.sub(lambda found: values[found[1]], text)


def _step(path: str, step: Mapping[str, Any], values: Mapping[str, str]) -> Step:
    """A step with its words checked by its verb."""
    words = [_filled(path, word, values) for word in str(step["run"]).split()]
    where = f"{path}: {step['name']}"
    checks.one_of(f"{where}.run", words[0], sorted(set(VERBS) - set(_NO_JOBS)))
    for name, value in step["options"].items():
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in given):
            raise ConfigError(f"{where}.{name}", value, "is no value", "Write texts or a list")
        words += [f"--{name}", *(_filled(path, one, values) for one in given)]
    _check_words(where, words)
    return Step(name=str(step["name"]), words=tuple(words))


def _check_words(where: str, words: Sequence[str]) -> None:
    """Have the verb parse its words, and run nothing.

    Raises:
        ConfigError: it does not take them; one line of what it says.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            arguments.check(VERBS[words[0]][0], words[1:])
    # A refused option ends in an exit with a printed page, whose text becomes the cause.
    except SystemExit as refused:
        raise ConfigError(
            where, None, _told(said.getvalue()), "Change it in the file or with --set"
        ) from refused
    except ConfigError as error:
        raise ConfigError(
            f"{where}: {error.subject}", error.value, error.cause, error.hint
        ) from error


def _told(page: str) -> str:
    """The line of the parser's framed page that says what is wrong."""
    # Of that page only what stands inside its frame.
    lines = [line.strip("│ ").strip() for line in page.splitlines()]
    rules = [place for place, line in enumerate(lines) if set(line) in ({"-"}, {"─"})]
    inside = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    return " ".join(line for line in inside if line) or "is refused"
