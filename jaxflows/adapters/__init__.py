"""Flows from outside: a flow that another library, or the user, has trained, as a `jaxflows.Flow` to be conditioned.

Each factory returns ``(flow, params)``. A peer library is imported when its factory is first named: ``pip install
"jaxflows[peers]"`` installs them. Such a flow cannot be written by `jaxflows.save`, as its code is not this library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxflows.lazy import lazy_names

if TYPE_CHECKING:
    from jaxflows.adapters.distrax import from_distrax
    from jaxflows.adapters.flowjax import from_flowjax
    from jaxflows.adapters.functions import from_functions

__all__ = ["from_distrax", "from_flowjax", "from_functions"]

# factory -> module of this package
_PLACES = {"from_distrax": "distrax", "from_flowjax": "flowjax", "from_functions": "functions"}

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}:{name}" for name, module in _PLACES.items()}, __all__)
