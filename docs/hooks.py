"""Pages that are generated while the documentation is built: the help of every verb."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

COMMANDS = "reference/commands.md"
RECIPE_OF = {
    "pretrain": "nano",
    "finetune": "nano",
    "detect": "nano",
    "segment": "nano",
    "plan": "nano",
    "tune": "nano",
    "cache-teacher": "nano_clip",
    "preview": "DATA",
}
"""Verbs whose options belong to a recipe or follow a data set, and one to show them by."""


def on_files(files: Files, config: Any) -> Files:
    """Add the page of commands to the files of the site."""
    files.append(File.generated(config, COMMANDS, content=commands_page()))
    return files


def commands_page() -> str:
    """Every verb with its line and its ``--help``, as the command line prints it."""
    from itpn_ray.cli import VERBS

    parts = ["# Commands", "", "`itpn-ray VERB --help`, for every verb.", ""]
    for verb, (_, line) in VERBS.items():
        arguments = [verb, *([RECIPE_OF[verb]] if verb in RECIPE_OF else []), "--help"]
        command = f"itpn-ray {' '.join(arguments)}"
        parts += [
            f"## {verb}",
            "",
            line,
            "",
            f"```text title='{command}'",
            help_of(arguments),
            "```",
            "",
        ]
    return "\n".join(parts)


def help_of(arguments: list[str]) -> str:
    """What a command prints about itself, 80 columns wide and without colours.

    Raises:
        PluginError: it prints no help.
    """
    from itpn_ray import cli

    os.environ.update(COLUMNS="80", NO_COLOR="1", TERM="dumb")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            code = cli.run(arguments)
    except SystemExit as leaving:
        code = leaving.code
    if code:
        raise PluginError(f"itpn-ray {' '.join(arguments)} ends with exit code {code}")
    return printed.getvalue().rstrip()
