"""The one way into weights: any file or state dict -> tensors with this package's names.

It knows files of this package, and state dicts with this package's or the authors' names however
they are wrapped: in entries (`model`, `state_dict`, `model_ema`, ...) and behind prefixes
(`module.`, `_orig_mod.`, `backbone.`, `encoder.`, ...). Networks are found by the name of their
position table, so that no list of wrappers needs to be complete.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models.config import NetworkConfig, TrunkConfig
from itpn_ray.models.networks.configs import network_from_dict
from itpn_ray.models.weights.convert import from_official
from itpn_ray.models.weights.describe import HEAD_WIDTH, describe, heads_are_guessed, is_ours
from itpn_ray.models.weights.raw_files import locate, named_tensors, read_raw

METADATA_KEY = "itpn_ray"
_TABLE = re.compile(
    r"(?:(?P<prefix>.*?)\.)??(?:trunk\.trunk\.position|trunk\.position|pos_embed|absolute_pos_embed)"
)
# Taken first where a file holds several networks, in the order of the authors' scripts; then those
# that are no average, in the order of the file.
_FIRST = ("", "model", "module", "state_dict")
_AVERAGES = ("ema", "average", "teacher")
_DEEPEST = 4  # mappings within mappings that are looked into

Source = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one network."""

    subject: str
    """The file, or "state dict"."""
    tensors: Mapping[str, Tensor]
    """With this package's names; what has no counterpart keeps its own."""
    config: NetworkConfig
    """The network: as the file says or, failing that, as names and shapes tell. Of a detector
    that nothing describes, its dense trunk."""
    described: bool
    """Whether the file says which network it holds."""
    written_by: str
    """"itpn_ray" or "authors": whose names the tensors had."""
    metadata: Mapping[str, str]
    """What `save_model` was given as `extra`."""
    choice: str
    """Which of several networks was taken, where nobody said; else empty."""
    guess: str
    """What had to be guessed of the network; else empty."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where the file says."""
        return tuple(map(str, json.loads(self.metadata.get("classes", "[]"))))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said of a file from which a network is built."""
        return tuple(filter(None, (self.choice, self.guess)))


def read_weights(
    source: Source,
    *,
    key: str | None = None,
    num_heads: int | None = None,
    image_size: int | None = None,
    decoder_num_heads: int | None = None,
) -> Weights:
    """Read weights of any origin.

    Args:
        source: a weight file, a run's folder, or what `torch.load` gives.
        key: the entry to take where there are several, such as "model_ema" or "student"; None:
            the first of `model`, `module`, `state_dict`, then one that is no average.
        num_heads: see `describe`; for files that do not say which network they hold.
        image_size: likewise.
        decoder_num_heads: likewise.

    Raises:
        CheckpointError: unreadable, no network of this package or of the authors in it, or no such
            entry.
    """
    metadata, tree, subject = _raw(source)
    # Taken out: what is left is what `save_model` was given as `extra`.
    entry = metadata.pop(METADATA_KEY, None)
    state, choice = _choose(tree, key, subject)
    dense = _dense_of(state)
    guess = ""
    if entry is not None:
        config = _description(entry, subject)
    else:
        config = describe(
            dense,
            num_heads=num_heads,
            image_size=image_size,
            decoder_num_heads=decoder_num_heads,
            subject=subject,
        )
        guess = "" if num_heads else _guess(config.trunk)
    # A file may have our names and no description: a bare state dict.
    ours = is_ours(dense)
    return Weights(
        subject=subject,
        tensors=state if ours else from_official(state, config),
        config=config,
        described=entry is not None,
        written_by="itpn_ray" if ours else "authors",
        metadata=metadata,
        choice=choice,
        guess=guess,
    )


def _raw(source: Source) -> tuple[dict[str, str], Any, str]:
    """Metadata and contents of a source, and what to call it in messages."""
    if isinstance(source, Mapping):
        return {}, source, "state dict"
    path = locate(source)
    return (*read_raw(path), str(path))


def _networks(tree: Mapping[Any, Any], path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The state dict of each network in a tree of mappings, by the entry that holds it."""
    tensors = named_tensors(tree)
    prefixes = _prefixes(tensors)
    for prefix in prefixes:
        several = f"{path}.{prefix}".strip(".") if len(prefixes) > 1 else path
        yield several, _without(tensors, prefix, prefixes)
    if depth < _DEEPEST:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                yield from _networks(value, f"{path}.{name}".strip("."), depth + 1)


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of each network among `tensors`, in their order."""
    matches = (_TABLE.fullmatch(name) for name in tensors)
    return list(dict.fromkeys(match["prefix"] or "" for match in matches if match))


def _without(tensors: Mapping[str, Tensor], prefix: str, others: list[str]) -> dict[str, Tensor]:
    """The tensors of one network, its prefix taken off, and those of no network."""
    # Without this, an empty prefix would take the tensors of the others too.
    taken = tuple(f"{other}." for other in others if other and other != prefix)
    own = f"{prefix}." if prefix else ""
    return {
        name.removeprefix(own): tensor
        for name, tensor in tensors.items()
        if not name.startswith(taken) or (own and name.startswith(own))
    }


def _choose(tree: Any, key: str | None, subject: str) -> tuple[dict[str, Tensor], str]:
    """The network called `key`, or the one that comes first, and which that was of several."""
    found = dict(_networks(tree, "")) if isinstance(tree, Mapping) else {}
    if not found:
        raise CheckpointError(
            subject,
            None,
            f"holds no network of this package or of the authors ({_contents(tree)})",
            "Check that it is the file of a Fast-iTPN or iTPN",
        )
    if key is not None and key not in found:
        raise CheckpointError(
            subject,
            None,
            f"has no network in an entry {key!r}",
            f"it has {', '.join(found)}" if any(found) else "leave the entry's name out",
        )
    if key is not None:
        return found[key], ""
    # Of equal ones the first in the file.
    name = min(found, key=_rank)
    choice = f"took {name} of {', '.join(found)}; key says which" if len(found) > 1 else ""
    return found[name], choice


def _rank(name: str) -> tuple[int, bool]:
    known = _FIRST.index(name) if name in _FIRST else len(_FIRST)
    return known, any(word in name for word in _AVERAGES)


def _contents(tree: Any) -> str:
    """What a file holds instead of a network, in a few words."""
    if not isinstance(tree, Mapping):
        return f"it holds a {type(tree).__name__}"
    names = [str(name) for name in tree]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"its entries: {shown or 'none'}"


def _guess(trunk: TrunkConfig) -> str:
    """What is taken for granted of a trunk that no file describes."""
    if not heads_are_guessed(trunk):
        return ""
    heads = f"{trunk.heads} attention heads, {HEAD_WIDTH} channels each"
    return f"guessed {heads}; num_heads of load_official says"


def _description(entry: str, subject: str) -> NetworkConfig:
    """The network that a file says it holds."""
    try:
        return network_from_dict(json.loads(entry))
    except (ConfigError, json.JSONDecodeError) as error:
        raise CheckpointError(
            subject, None, f"its tensors and its description disagree ({error})", "Export it anew"
        ) from error


def _dense_of(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of a detector of this package its dense trunk, anything else as it is."""
    held = "trunk."
    if f"{held}trunk.position" not in state:
        return state
    return {name.removeprefix(held): t for name, t in state.items() if name.startswith(held)}
