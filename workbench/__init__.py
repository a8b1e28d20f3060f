"""The open-weight workbench: fine-tune open models, keep the lineage, know what survives a new base.

    from workbench import Workbench
    bench = Workbench()

Names load on first use, so importing the package stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.api import Workbench
    from workbench.errors import WorkbenchError
    from workbench.recipe import Recipe
    from workbench.records import AdapterRef, BaseRef

__version__ = "0.1.0"
__all__ = ["AdapterRef", "BaseRef", "Recipe", "Workbench", "WorkbenchError", "__version__"]

_HOMES = {
    "AdapterRef": "workbench.records",
    "BaseRef": "workbench.records",
    "Recipe": "workbench.recipe",
    "Workbench": "workbench.api",
    "WorkbenchError": "workbench.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
