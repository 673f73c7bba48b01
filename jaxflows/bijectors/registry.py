"""One table of every bijector family: its factory, and examples that feed the generic tests.

Adding a family means one file with a factory whose `describe` names this table's key, and one line here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.logit import logit
from jaxflows.bijectors.residual import residual_conv, residual_dense
from jaxflows.bijectors.squeeze import squeeze


class Family(NamedTuple):
    """A family of bijectors.

    Attributes:
        build: the factory, called with the options of a description as keywords; nested layers come already built and
            JSON lists come as tuples.
        examples: ``(layer, event shape)`` pairs on both sides of every option, small enough for exhaustive tests.
    """

    build: Callable[..., Bijector]
    examples: tuple[tuple[Bijector, Shape], ...]


_DENSE = residual_dense(hidden=(8,))
_CONV = residual_conv(channels=(3, 4))

FAMILIES: dict[str, Family] = {
    "actnorm": Family(actnorm, tuple((actnorm(over=over), (4, 2, 3)) for over in ("element", "channel", "event"))),
    "chain": Family(
        lambda layers: chain(*layers),
        ((chain(actnorm(over="event"), _DENSE), (5,)), (chain(actnorm(), squeeze(), _CONV), (4, 4, 1))),
    ),
    "invert": Family(lambda inner: invert(inner), ((invert(_DENSE), (5,)), (invert(actnorm(over="element")), (2, 3)))),
    "logit": Family(logit, ((logit(), (6,)), (logit(margin=0.2), (2, 3)))),
    "residual_conv": Family(
        residual_conv, ((_CONV, (4, 3, 2)), (residual_conv(channels=(4,), kernels=(1, 3), activation="elu"), (3, 3, 1)))
    ),
    "residual_dense": Family(
        residual_dense,
        (
            (_DENSE, (5,)),
            (residual_dense(hidden=(6, 7), activation="lipswish", coeff=0.7), (2, 3)),
            (residual_dense(hidden=(6,), activation="tanh", coeff=0.5), (1,)),
        ),
    ),
    "scan_chain": Family(
        lambda body, depth: scan_chain(body, depth),
        ((scan_chain(_DENSE, 3), (5,)), (scan_chain(_CONV, 1), (4, 4, 1))),
    ),
    "squeeze": Family(squeeze, ((squeeze(), (4, 2, 3)), (squeeze(factor=3), (3, 6, 1)))),
}


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
        return FAMILIES[name].build(**{option: _decode(item) for option, item in options.items()})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"expected options that {name!r} takes; got {options} ({error})") from None
