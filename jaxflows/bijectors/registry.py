"""One table of every bijector family, and how a layer is rebuilt from its description.

Adding a family means one file and one line here. The file holds a factory of the family's name, whose `describe` uses that
name, and ``EXAMPLES``, a table of layers with event shapes on both sides of every option, which feed the generic tests.
A family's module is imported when a description first names it: some need libraries that the others do without.
"""

from __future__ import annotations

import functools
import importlib
import json
from typing import Any

from jaxflows.bijectors.base import Bijector, Shape

# family -> module of this package
FAMILIES = {
    "actnorm": "actnorm",
    "additive_coupling": "coupling",
    "affine_coupling": "coupling",
    "beside": "beside",
    "chain": "chain",
    "conditional_coupling": "coupling",
    "continuous": "continuous",
    "conv1x1": "conv1x1",
    "cosine_affine": "cosine",
    "elementwise_spline": "spline",
    "factor_out": "factor_out",
    "invert": "invert",
    "logit": "logit",
    "planar": "planar",
    "radial": "radial",
    "residual_conv": "residual",
    "residual_dense": "residual",
    "residual_densenet": "residual_densenet",
    "residual_densenet_conv": "residual_densenet",
    "scan_chain": "chain",
    "spline_coupling": "spline",
    "squeeze": "squeeze",
    "sylvester": "sylvester",
    "triangular_affine": "triangular",
    "unsqueeze": "squeeze",
}


def build(family: str, options: dict[str, Any]) -> Bijector:
    """Call a family's factory; nested layers come already built and JSON lists as tuples.

    Raises:
        TypeError: options the factory does not take.
    """
    make = getattr(_module(family), family)
    # composites take their layers by position, all other factories their options by keyword
    return make(*options["layers"]) if set(options) == {"layers"} else make(**options)


def examples(family: str) -> tuple[tuple[Bijector, Shape], ...]:
    """``(layer, event shape)`` pairs of a family, small enough for exhaustive tests."""
    return tuple(_module(family).EXAMPLES[family])


def _module(family: str) -> Any:
    return importlib.import_module(f"jaxflows.bijectors.{FAMILIES[family]}")


@functools.cache
def from_spec(spec: str) -> Bijector:
    """Build a bijector again from its canonical JSON description ``bijector.spec``, running only the table's factories.

    Args:
        spec: JSON as `jaxflows.bijectors.base.describe` writes it.

    Returns:
        A bijector whose ``spec`` is ``spec``.

    Raises:
        ValueError: not JSON, an unknown family, or options the family does not take; the message names the family.
    """
    try:
        description = json.loads(spec)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected a bijector's description in JSON; got {spec[:60]!r} ({error})") from None
    bijector = _decode(description)
    if not isinstance(bijector, Bijector):
        raise ValueError(f"expected a bijector's description; got {spec[:60]!r}")
    if json.loads(bijector.spec) != description:
        raise ValueError(f"expected a complete description of {bijector.spec}; got {spec}")
    return bijector


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    options = dict(value)
    name = options.pop("bijector", None)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"expected a bijector of {sorted(FAMILIES)}; got {name!r}")
    try:
        return build(name, {option: _decode(item) for option, item in options.items()})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"expected options that {name!r} takes; got {options} ({error})") from None
