"""Factoring out: some channels go on to the next scale, the others are latent (Dinh et al. 2017, RealNVP, Sec. 3.6)."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, describe, layer
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.coupling import affine_coupling
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.factory import factory


@factory
def factor_out(inner: Bijector, *, channels: int) -> Bijector:
    """v = (inner(u_1), u_2) with u_1 the first ``channels`` of the last axis and u_2 the rest.

    What ``inner`` moves is put back where it came from, so that all scales share one latent of the event's shape and
    every entry stays in place, whatever ``inner`` squeezes.

    To the boundary sweep this is one layer, explicit both ways: a linear observation may see u_1 and u_2 together, and
    its restriction to u_1 is then no projector for the inner layers to use. So ``inner`` should have explicit inverses;
    the iterations of one that has not would run within every sweep, uncounted.

    Args:
        inner: the layers of the next scale.
        channels: how many channels go on; the event must have more.
    """
    if channels < 1:
        raise ValueError(f"expected channels >= 1; got {channels}")

    def inner_shape(shape: Shape) -> Shape:
        return (*shape[:-1], channels)

    def output_shape(shape: Shape) -> Shape:
        if not shape or shape[-1] <= channels:
            raise ValueError(f"expected an event of more than {channels} channels, {channels} of them to go on; got {shape}")
        inner.output_shape(inner_shape(shape))
        return shape

    def init(key: jax.Array, shape: Shape) -> Params:
        output_shape(shape)
        return inner.init(key, inner_shape(shape))

    def replaced(u: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.concatenate([image, u[..., channels:]], axis=-1)

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return replaced(u, inner.move_back(inner.transform(params, u[..., :channels])))

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        part, info = inner.invert(params, inner.move(v[..., :channels]))
        return replaced(v, part), info

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        part, log_det = inner.forward(params, u[..., :channels])
        return replaced(u, inner.move_back(part)), log_det

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        part, log_det = inner.inverse(params, inner.move(v[..., :channels]))
        return replaced(v, part), log_det

    def estimate(key: jax.Array, estimator: Any, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        part, log_det = inner.estimate(key, estimator, params, u[..., :channels])
        return replaced(u, inner.move_back(part)), log_det

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return forward(params, u)[1]

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        return inner.fit_to_data(params, batch[..., :channels])

    bijector = layer(
        spec=describe("factor_out", inner=json.loads(inner.spec), channels=channels), init=init, transform=transform,
        invert=invert, log_det=log_det, output_shape=output_shape, fit_to_data=fit_to_data, constrain=inner.constrain,
        lipschitz=inner.lipschitz, blocks=inner.blocks, explicit=inner.explicit,
    )  # fmt: skip
    return bijector._replace(forward=forward, inverse=inverse, estimate=estimate)


_COUPLING = affine_coupling(hidden=3, blocks=1, network="conv")

EXAMPLES = {
    "factor_out": [
        (factor_out(chain(squeeze(), _COUPLING), channels=1), (2, 2, 2)),
        (factor_out(factor_out(affine_coupling(hidden=3, blocks=1), channels=2), channels=3), (5,)),
    ]
}
