"""What older versions called otherwise: saved configurations, and commands in people's scripts."""

from __future__ import annotations

FIELDS = {
    "optim.drops": "lr_milestones",
    "optim.trunk_scale": "backbone_lr_scale",
    "loader.carrier": "transport",
}
"""A setting's dotted name before -> its own name today."""
VERBS = {"pictures": "synthesize", "teach": "cache-teacher", "look": "preview"}
"""A verb before -> today."""


def verb_today(verb: str) -> str:
    """A verb by its name of today."""
    return VERBS.get(verb, verb)


def options_today(words: list[str]) -> list[str]:
    """A command line with its options by their names of today, nested ones too."""
    return [_option_today(word) for word in words]


def _option_today(word: str) -> str:
    option, equals, value = word.partition("=")
    for before, name in FIELDS.items():
        old = before.replace("_", "-")
        # Of a sweep the settings stand behind a prefix: --finetune.loader.carrier.
        if option == f"--{old}" or (option.startswith("--") and option.endswith(f".{old}")):
            group = old.rpartition(".")[0]
            today = f"{group}.{name.replace('_', '-')}"
            return option[: -len(old)] + today + equals + value
    return word
