"""Whole flows: `Flow`, `flow_of` for any bijector, and one factory a family.

A family's module is imported when its factory is first named: some need libraries that the others do without. Modules are
not named as their factories are, since importing a module puts its name here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxflows.flows.flow import Flow, check_event, flow_of, standard_normal_log_prob
from jaxflows.lazy import lazy_names

if TYPE_CHECKING:
    from jaxflows.flows.continuous_flows import continuous
    from jaxflows.flows.glow_flows import glow
    from jaxflows.flows.implicit_flows import implicit, implicit_image
    from jaxflows.flows.neural_spline_flows import neural_spline
    from jaxflows.flows.nice_flows import nice
    from jaxflows.flows.planar_flows import planar
    from jaxflows.flows.radial_flows import radial
    from jaxflows.flows.realnvp_flows import PAPER_SIZES, realnvp, realnvp_image, realnvp_latent
    from jaxflows.flows.residual_densenet_flows import residual_densenet, residual_densenet_image
    from jaxflows.flows.residual_flows import residual, residual_image
    from jaxflows.flows.sylvester_flows import sylvester
    from jaxflows.flows.whitened_flows import whitened_image

__all__ = [
    "PAPER_SIZES",
    "Flow",
    "check_event",
    "continuous",
    "flow_of",
    "glow",
    "implicit",
    "implicit_image",
    "neural_spline",
    "nice",
    "planar",
    "radial",
    "realnvp",
    "realnvp_image",
    "realnvp_latent",
    "residual",
    "residual_densenet",
    "residual_densenet_image",
    "residual_image",
    "standard_normal_log_prob",
    "sylvester",
    "whitened_image",
]

# factory -> module of this package
_PLACES = {
    "PAPER_SIZES": "realnvp_flows",
    "continuous": "continuous_flows",
    "glow": "glow_flows",
    "implicit": "implicit_flows",
    "implicit_image": "implicit_flows",
    "neural_spline": "neural_spline_flows",
    "nice": "nice_flows",
    "planar": "planar_flows",
    "radial": "radial_flows",
    "realnvp": "realnvp_flows",
    "realnvp_image": "realnvp_flows",
    "realnvp_latent": "realnvp_flows",
    "residual": "residual_flows",
    "residual_densenet": "residual_densenet_flows",
    "residual_densenet_image": "residual_densenet_flows",
    "residual_image": "residual_flows",
    "sylvester": "sylvester_flows",
    "whitened_image": "whitened_flows",
}

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}:{name}" for name, module in _PLACES.items()}, __all__)
