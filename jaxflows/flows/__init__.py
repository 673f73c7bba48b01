"""Whole flows: `Flow`, `flow_of` for any bijector, and one factory a family.

A family's module is imported when its factory is first named: some need libraries that the others do without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxflows.flows.flow import Flow, check_event, flow_of, standard_normal_log_prob

if TYPE_CHECKING:
    from jaxflows.flows.glow import glow
    from jaxflows.flows.neural_spline import neural_spline
    from jaxflows.flows.nice import nice
    from jaxflows.flows.realnvp import realnvp, realnvp_image
    from jaxflows.flows.residual import residual, residual_image

__all__ = [
    "Flow",
    "check_event",
    "flow_of",
    "glow",
    "neural_spline",
    "nice",
    "realnvp",
    "realnvp_image",
    "residual",
    "residual_image",
    "standard_normal_log_prob",
]

# factory -> module of this package
_PLACES = {
    "glow": "glow",
    "neural_spline": "neural_spline",
    "nice": "nice",
    "realnvp": "realnvp",
    "realnvp_image": "realnvp",
    "residual": "residual",
    "residual_image": "residual",
}


def __getattr__(name: str) -> Any:
    """Import a factory when it is first named."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
