"""Inverse problems: noisy measurements of an event, and every method that infers the event from them.

`noisy_measurement` says what was read, `noise` how it was disturbed; `jaxflows.infer` takes both and a method, by name or made
by one of the factories below, each imported when it is first named (docs/inverse.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxflows.inverse import noise
    from jaxflows.inverse.ambient_method import ambient
    from jaxflows.inverse.asim_method import asim
    from jaxflows.inverse.blackjax_methods import hmc, nuts
    from jaxflows.inverse.constraint_method import constraint
    from jaxflows.inverse.csgm_method import csgm
    from jaxflows.inverse.infer import Inference
    from jaxflows.inverse.langevin_method import langevin, mala
    from jaxflows.inverse.map_method import most_probable
    from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement
    from jaxflows.inverse.plmcmc_method import plmcmc
    from jaxflows.inverse.pregenerator_method import pregenerator

__all__ = [
    "Inference",
    "NoisyMeasurement",
    "ambient",
    "asim",
    "constraint",
    "csgm",
    "hmc",
    "langevin",
    "mala",
    "most_probable",
    "noise",
    "noisy_measurement",
    "nuts",
    "plmcmc",
    "pregenerator",
]


# name -> module of this package; modules are not named as what they hold, since importing a module puts its name here
_PLACES = {
    "Inference": "infer",
    "NoisyMeasurement": "noisy_measurements",
    "ambient": "ambient_method",
    "asim": "asim_method",
    "constraint": "constraint_method",
    "csgm": "csgm_method",
    "hmc": "blackjax_methods",
    "langevin": "langevin_method",
    "mala": "langevin_method",
    "most_probable": "map_method",
    "noisy_measurement": "noisy_measurements",
    "nuts": "blackjax_methods",
    "plmcmc": "plmcmc_method",
    "pregenerator": "pregenerator_method",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name == "noise":
        return importlib.import_module(f"{__name__}.noise")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
