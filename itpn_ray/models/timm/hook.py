"""timm learns our names when it is imported: before us or after, and not at all if it never is.

Importing timm takes seconds that training and the command line need not spend, so `itpn_ray.models`
does not import it; a watcher on Python's import path registers the networks once timm is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_AWAITED = "timm.models"
_REGISTERING = "itpn_ray.models.timm.registration"


class _Watcher(MetaPathFinder):
    """Imports our registering module right after timm's models; then it is gone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                import_module(_REGISTERING)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_timm() -> None:
    """Register the networks with timm, now if it is imported, else as soon as it is."""
    if _AWAITED in sys.modules:
        import_module(_REGISTERING)
    else:
        sys.meta_path.insert(0, _Watcher())
