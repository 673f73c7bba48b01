"""Inverse problems: noisy measurements of an event, and every method that infers the event from them.

`noisy_measurement` says what was read, `noise` how it was disturbed; `jaxflows.infer` takes both and a method, by name or made
by one of the factories below, each imported when it is first named (docs/inverse.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxflows.lazy import lazy_names

if TYPE_CHECKING:
    from jaxflows.inverse import noise
    from jaxflows.inverse.ambient_method import ambient
    from jaxflows.inverse.amortised_method import amortised
    from jaxflows.inverse.amortised_pregenerator import AmortisedPregenerator, fit_amortised_pregenerator
    from jaxflows.inverse.asim_method import asim
    from jaxflows.inverse.blackjax_methods import hmc, nuts
    from jaxflows.inverse.constraint_method import constraint
    from jaxflows.inverse.csgm_method import csgm
    from jaxflows.inverse.flow_posterior import FlowPosterior
    from jaxflows.inverse.gaussian_method import gaussian
    from jaxflows.inverse.infer import Inference
    from jaxflows.inverse.langevin_method import langevin, mala
    from jaxflows.inverse.map_method import most_probable
    from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement
    from jaxflows.inverse.plmcmc_method import plmcmc
    from jaxflows.inverse.pregenerator_method import pregenerator
    from jaxflows.inverse.sparse_method import sparse

__all__ = [
    "AmortisedPregenerator",
    "FlowPosterior",
    "Inference",
    "NoisyMeasurement",
    "ambient",
    "amortised",
    "asim",
    "constraint",
    "csgm",
    "fit_amortised_pregenerator",
    "gaussian",
    "hmc",
    "langevin",
    "mala",
    "most_probable",
    "noise",
    "noisy_measurement",
    "nuts",
    "plmcmc",
    "pregenerator",
    "sparse",
]


# name -> module:attribute; modules are not named as what they hold, since importing a module puts its name here
_PLACES = {
    "AmortisedPregenerator": "jaxflows.inverse.amortised_pregenerator:AmortisedPregenerator",
    "FlowPosterior": "jaxflows.inverse.flow_posterior:FlowPosterior",
    "Inference": "jaxflows.inverse.infer:Inference",
    "NoisyMeasurement": "jaxflows.inverse.noisy_measurements:NoisyMeasurement",
    "ambient": "jaxflows.inverse.ambient_method:ambient",
    "amortised": "jaxflows.inverse.amortised_method:amortised",
    "asim": "jaxflows.inverse.asim_method:asim",
    "constraint": "jaxflows.inverse.constraint_method:constraint",
    "csgm": "jaxflows.inverse.csgm_method:csgm",
    "fit_amortised_pregenerator": "jaxflows.inverse.amortised_pregenerator:fit_amortised_pregenerator",
    "gaussian": "jaxflows.inverse.gaussian_method:gaussian",
    "hmc": "jaxflows.inverse.blackjax_methods:hmc",
    "langevin": "jaxflows.inverse.langevin_method:langevin",
    "mala": "jaxflows.inverse.langevin_method:mala",
    "most_probable": "jaxflows.inverse.map_method:most_probable",
    "noise": "jaxflows.inverse.noise",
    "noisy_measurement": "jaxflows.inverse.noisy_measurements:noisy_measurement",
    "nuts": "jaxflows.inverse.blackjax_methods:nuts",
    "plmcmc": "jaxflows.inverse.plmcmc_method:plmcmc",
    "pregenerator": "jaxflows.inverse.pregenerator_method:pregenerator",
    "sparse": "jaxflows.inverse.sparse_method:sparse",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES, __all__)
