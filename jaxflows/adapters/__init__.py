"""Flows from outside: a flow that another library, or the user, has trained, as a `jaxflows.Flow` to be conditioned.

Each factory returns ``(flow, params)``. A peer library is imported when its factory is first named: ``pip install
"jaxflows[peers]"`` installs them. Such a flow cannot be written by `jaxflows.save`, as its code is not this library's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxflows.adapters.distrax import from_distrax
    from jaxflows.adapters.flowjax import from_flowjax
    from jaxflows.adapters.functions import from_functions

__all__ = ["from_distrax", "from_flowjax", "from_functions"]

# factory -> module of this package
_PLACES = {"from_distrax": "distrax", "from_flowjax": "flowjax", "from_functions": "functions"}


def __getattr__(name: str) -> Any:
    """Import a factory when it is first named."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
