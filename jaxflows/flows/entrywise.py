"""Flows that begin with a map of each entry for itself, and what is behind it.

Of y = S^{-1}(u), S entry by entry, an observation of entries is one of the same entries of u, and

    p(y_H | y_O) = p(u_H | u_O) |det dS/dy_H| :

to draw u_H given u_O in the flow behind and to map it back is to draw y_H given y_O. Chains that move do it there, where what
gathers at a few values of y is spread apart and what is rare between them is drawn together.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import jax

from jaxflows.bijectors.base import Bijector, Params
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.registry import from_spec
from jaxflows.flows.flow import Flow, flow_of

ENTRYWISE = ("elementwise_spline",)


class Behind(NamedTuple):
    """A flow whose first layer maps each entry for itself.

    Attributes:
        front: that layer.
        flow: of its images, all layers but the first.
    """

    front: Bijector
    flow: Flow

    @property
    def alike(self) -> bool:
        """Whether the front is one map for all entries, which are of one kind then."""
        return bool(json.loads(self.front.spec)["over"] == "event")

    def parts(self, params: Params) -> tuple[Params, Params]:
        """Parameters of the front, and of the flow behind it, in those of the whole."""
        return params[0], tuple(params[1:])

    def images(self, params: Params, y: jax.Array) -> jax.Array:
        """u = S(y), an event of the flow behind."""
        return self.front.transform(params[0], y)

    def events(self, params: Params, u: jax.Array) -> jax.Array:
        """y = S^{-1}(u)."""
        return self.front.invert(params[0], u)[0]


def behind_entrywise(flow: Flow) -> Behind | None:
    """The flow in two parts; None for a flow that begins otherwise, or with nothing behind."""
    description = json.loads(flow.bijector.spec)
    layers = description.get("layers", []) if description["bijector"] == "chain" else []
    if len(layers) < 2 or layers[0]["bijector"] not in ENTRYWISE:
        return None
    front, *rest = [from_spec(json.dumps(layer)) for layer in layers]
    return Behind(front, flow_of(flow.event_shape, chain(*rest)))
