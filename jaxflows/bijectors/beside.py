"""A layer beside entries that it leaves alone: how a flow is extended by variables it does not touch, such as noise."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, carried, describe, layer, stay
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.coupling import affine_coupling
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.registry import from_spec
from jaxflows.bijectors.residual import residual_dense
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.factory import factory
from jaxflows.observation import mask


@factory
def beside(inner: Bijector, *, event_shape: Shape, extra: int) -> Bijector:
    """v = (inner(u_1), u_2) on flat events: u_1 the first entries, in the shape ``event_shape``, u_2 the last ``extra``.

    A linear observation may see u_1 and u_2 together, and its restriction to u_1 is then no projector. The sweep needs none:
    it asks the inner layer's explicit steps for all of its entries, and projects the whole.

    Args:
        inner: any layer. Of a chain use `extend`, which sweeps every layer of it for itself.
        event_shape: shape of the events of ``inner``.
        extra: how many entries stand beside it, at least 1.
    """
    event_shape = tuple(event_shape)
    if extra < 1:
        raise ValueError(f"expected extra >= 1; got {extra}")
    image_shape, size = inner.output_shape(event_shape), math.prod(event_shape)

    def output_shape(shape: Shape) -> Shape:
        if shape != (size + extra,):
            raise ValueError(f"expected flat events of {size} + {extra} entries; got shape {shape}")
        return shape

    def init(key: jax.Array, shape: Shape) -> Params:
        output_shape(shape)
        return inner.init(key, event_shape)

    def event(u: jax.Array) -> jax.Array:
        return u[:size].reshape(event_shape)

    def image(v: jax.Array) -> jax.Array:
        return v[:size].reshape(image_shape)

    def replaced(whole: jax.Array, part: jax.Array) -> jax.Array:
        return jnp.concatenate([part.reshape(-1), whole[size:]])

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return replaced(u, inner.transform(params, event(u)))

    def inverted(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        part, info = inner.invert(params, image(v))
        return replaced(v, part), info

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        part, log_det = inner.forward(params, event(u))
        return replaced(u, part), log_det

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        part, log_det = inner.inverse(params, image(v))
        return replaced(v, part), log_det

    def estimate(key: jax.Array, estimator: Any, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        part, log_det = inner.estimate(key, estimator, params, event(u))
        return replaced(u, part), log_det

    def trace(params: Params, u: jax.Array) -> tuple[jax.Array, Any]:
        part, path = inner.trace(params, event(u))
        return replaced(u, part), path

    def sweep_forward(params: Params, observation: Any, u: jax.Array, path: Any, v: jax.Array) -> tuple[Any, jax.Array, Any]:
        everything = mask(jnp.ones(event_shape, bool))
        path, part, note = inner.sweep_forward(params, everything, event(u), path, image(v))
        return path, v + carried(bijector, observation).observed_part(replaced(u, part) - v), note

    def sweep_backward(
        params: Params, observation: Any, v: jax.Array, path: Any, u: jax.Array, note: Any
    ) -> tuple[Any, jax.Array]:
        nothing = mask(jnp.zeros(event_shape, bool))
        path, part = inner.sweep_backward(params, nothing, image(v), path, event(u), note)
        return path, u + observation.hidden_part(replaced(v, part) - u)

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        return inner.fit_to_data(params, jax.vmap(event)(batch))

    moves = inner.move is not stay
    bijector = layer(
        spec=describe("beside", inner=json.loads(inner.spec), event_shape=list(event_shape), extra=extra), init=init,
        transform=transform, invert=inverted, log_det=lambda params, u: forward(params, u)[1], output_shape=output_shape,
        move=(lambda u: replaced(u, inner.move(event(u)))) if moves else stay,
        move_back=(lambda v: replaced(v, inner.move_back(image(v)))) if moves else stay,
        fit_to_data=fit_to_data, constrain=inner.constrain, lipschitz=inner.lipschitz, blocks=inner.blocks,
        explicit=inner.explicit,
    )._replace(
        forward=forward, inverse=inverse, estimate=estimate, trace=trace, sweep_forward=sweep_forward,
        sweep_backward=sweep_backward, sweep_blocks=inner.sweep_blocks,
    )  # fmt: skip
    return bijector


@functools.cache
def extend(bijector: Bijector, event_shape: Shape, extra: int) -> Bijector:
    """``bijector`` beside ``extra`` entries, layer by layer: every layer of a chain stays a point of the boundary sweep.

    Parameters are those of ``bijector``, unchanged. A composite that holds a layer which is not in the table of bijectors,
    such as a flow from outside, is extended as one layer.
    """
    description = json.loads(bijector.spec)
    try:
        if description["bijector"] == "chain":
            parts, shape = [], event_shape
            for part in map(_rebuilt, description["layers"]):
                parts.append(extend(part, shape, extra))
                shape = part.output_shape(shape)
            return chain(*parts)
        if description["bijector"] == "scan_chain":
            return scan_chain(extend(_rebuilt(description["body"]), event_shape, extra), description["depth"])
        if description["bijector"] == "invert":
            return invert(extend(_rebuilt(description["inner"]), event_shape, extra))
    except ValueError:
        pass
    return beside(bijector, event_shape=event_shape, extra=extra)


def _rebuilt(description: Any) -> Bijector:
    return from_spec(json.dumps(description, sort_keys=True))


_COUPLING = affine_coupling(hidden=3, blocks=1, network="conv")

EXAMPLES = {
    "beside": [
        (beside(residual_dense(hidden=(6,)), event_shape=(2, 2), extra=3), (7,)),
        (beside(chain(squeeze(), _COUPLING), event_shape=(2, 2, 1), extra=1), (5,)),
    ]
}
