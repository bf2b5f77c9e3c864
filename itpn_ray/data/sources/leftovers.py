"""Files and folders that programs leave behind, by their names: they are left out everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import basename

LEFTOVER = "left behind by a program"
"""The reason in listings; `counted` makes one row of all that have it."""

_NAMES = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "zbthumbnail.info"),
        *("icon\r", "picasa.ini", "aquota.user", "aquota.group"),
        *("__macosx", "__pycache__", "network trash folder", "temporary items"),
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "#recycler"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
        *("lost+found", "_vti_cnf", "cvs"),
    }
)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or of a name that only programs give."""
    hidden = name.startswith((".", "~$")) and name not in (".", "..")
    return hidden or name.casefold() in _NAMES


def lies_in_leftover(path: str) -> bool:
    """Whether a path, relative to the source or inside a tar, has such a name in it."""
    return any(is_leftover(part) for part in path.split("/"))


def counted(skipped: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Rows of (path, reason) with one row for all leftovers, at the end."""
    found = [path for path, reason in skipped if reason == LEFTOVER]
    if not found:
        return tuple(skipped)
    rest = [row for row in skipped if row[1] != LEFTOVER]
    return (*rest, (found[0], in_words(found)))


def in_words(paths: Sequence[str]) -> str:
    """How many leftovers there are and what some of them are called."""
    names = list(dict.fromkeys(_kind(path) for path in paths))
    more = ", ..." if len(names) > 4 else ""
    count = "1 file or folder" if len(paths) == 1 else f"{len(paths):,} files and folders"
    return f"left out: {count} that programs leave behind ({', '.join(names[:4])}{more})"


def _kind(path: str) -> str:
    """The name, or the pattern of which there is one beside every file."""
    name = basename(path)
    return "._*" if name.startswith("._") else name
