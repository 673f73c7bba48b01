"""Run a layer the other way: half of an implicit flow (IVCNF, Appendix D)."""

from __future__ import annotations

import json
from typing import Any

import jax

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, carried, describe, no_work
from jaxflows.bijectors.residual import residual_dense
from jaxflows.factory import factory


@factory
def invert(inner: Bijector) -> Bijector:
    """The layer v = inner^{-1}(u). ``invert(invert(b)) is b``; no nested fixed point is ever solved by the sweep.

    A forward sweep through it is a backward sweep through ``inner`` for the complementary observation, which renews the
    observed part with the explicit step u - h(v_guess) for a residual ``inner``.

    Args:
        inner: a layer that keeps the event's shape.
    """
    if json.loads(inner.spec)["bijector"] == "invert":
        return _INNER[inner]

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return inner.invert(params, u)[0]

    def inverted(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        return inner.transform(params, v), no_work(v.dtype, evaluations=inner.blocks)

    def estimate(key: jax.Array, estimator: Any, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        v = transform(params, u)
        _, log_det = inner.estimate(key, estimator, params, v)
        return v, log_det._replace(value=-log_det.value)

    def trace(params: Params, u: jax.Array) -> tuple[jax.Array, Any]:
        v = transform(params, u)
        return v, inner.trace(params, v)[1]

    def sweep_forward(params: Params, observation: Any, u: jax.Array, path: Any, v: jax.Array) -> tuple[Any, jax.Array, None]:
        return *inner.sweep_backward(params, carried(bijector, observation).complement(), u, path, v, None), None

    def sweep_backward(
        params: Params, observation: Any, v: jax.Array, path: Any, u: jax.Array, note: None
    ) -> tuple[Any, jax.Array]:
        del note
        path, u, _ = inner.sweep_forward(params, carried(bijector, observation).complement(), v, path, u)
        return path, u

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        del batch
        return params

    def output_shape(shape: Shape) -> Shape:
        if inner.output_shape(shape) != shape:
            raise ValueError(f"expected a layer that keeps the event's shape {shape}; got {inner.output_shape(shape)}")
        return shape

    bijector = Bijector(
        spec=describe("invert", inner=json.loads(inner.spec)), blocks=inner.blocks, explicit=inner.explicit, init=inner.init,
        output_shape=output_shape, transform=transform, invert=inverted, forward=inner.inverse, inverse=inner.forward,
        estimate=estimate, trace=trace, sweep_forward=sweep_forward, sweep_backward=sweep_backward,
        sweep_blocks=2 * inner.blocks,
        move=inner.move_back, move_back=inner.move,
        fit_to_data=fit_to_data, constrain=inner.constrain, lipschitz=inner.lipschitz,
    )  # fmt: skip
    _INNER[bijector] = inner
    return bijector


_INNER: dict[Bijector, Bijector] = {}


EXAMPLES = {"invert": [(invert(residual_dense(hidden=(8,))), (5,)), (invert(actnorm(over="element")), (2, 3))]}
