"""Whole flows: `Flow`, `flow_of` for any bijector, and one factory a family.

A family's module is imported when its factory is first named: some need libraries that the others do without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxflows.flows.flow import Flow, check_event, flow_of, standard_normal_log_prob

if TYPE_CHECKING:
    from jaxflows.flows.implicit import implicit, implicit_image
    from jaxflows.flows.planar import planar
    from jaxflows.flows.radial import radial
    from jaxflows.flows.residual import residual, residual_image
    from jaxflows.flows.residual_densenet import residual_densenet, residual_densenet_image
    from jaxflows.flows.sylvester import sylvester

__all__ = [
    "Flow",
    "check_event",
    "flow_of",
    "implicit",
    "implicit_image",
    "planar",
    "radial",
    "residual",
    "residual_densenet",
    "residual_densenet_image",
    "residual_image",
    "standard_normal_log_prob",
    "sylvester",
]

# factory -> module of this package
_PLACES = {
    "implicit": "implicit",
    "implicit_image": "implicit",
    "planar": "planar",
    "radial": "radial",
    "residual": "residual",
    "residual_densenet": "residual_densenet",
    "residual_densenet_image": "residual_densenet",
    "residual_image": "residual",
    "sylvester": "sylvester",
}


def __getattr__(name: str) -> Any:
    """Import a factory when it is first named."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    # all of the module's factories: importing it has put the module itself under the name of one of them
    globals().update({other: getattr(module, other) for other, place in _PLACES.items() if place == _PLACES[name]})
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
