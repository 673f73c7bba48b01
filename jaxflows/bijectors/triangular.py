"""A triangular affine map of all entries: what is left of each after a linear prediction from those before it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.factory import factory


@factory
def triangular_affine(*, scale_floor: float = 1e-3) -> Bijector:
    """v = T (u - shift) on flattened events, T lower triangular: with T = L^{-1} the innovations of a Gaussian N(shift, L L^T).

    v_i is what is left of u_i after its linear prediction from the entries before it, in units of its own deviation: white
    where u is that Gaussian, and of an image still about what is new at its place. `jaxflows.gaussian_start` sets T; a batch
    of fewer rows than entries could not, and the first one sets shift and diagonal alone. The leaf ``factor`` is T with the
    logarithm of its diagonal.

    Linear both ways: a linear measurement stays one, but a mask does not stay a mask.

    Args:
        scale_floor: standard deviations of the first batch below it are raised to it; the ratio to the batch's largest when
            that is smaller.

    Cost: d^2 / 2 multiplications either way, the inverse being a triangular solve.
    """
    if not scale_floor > 0:
        raise ValueError(f"expected scale_floor > 0; got {scale_floor}")

    # what a batch tells of every entry by itself
    alone = actnorm(over="element", scale_floor=scale_floor)

    def init(key: jax.Array, shape: Shape) -> Params:
        del key
        size = math.prod(shape)
        return {"shift": jnp.zeros(shape), "factor": jnp.zeros((size, size))}

    def triangle(params: Params) -> jax.Array:
        factor = params["factor"]
        return jnp.tril(factor, -1) + jnp.diag(jnp.exp(jnp.diagonal(factor)))

    def transform(params: Params, u: jax.Array) -> jax.Array:
        centred = (u - params["shift"]).reshape(-1)
        return jnp.matmul(triangle(params), centred, precision=jax.lax.Precision.HIGHEST).reshape(u.shape)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        centred = solve_triangular(triangle(params), v.reshape(-1), lower=True)
        return centred.reshape(v.shape) + params["shift"], no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        del u
        return jnp.sum(jnp.diagonal(params["factor"]))

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        del params
        started = alone.fit_to_data({}, batch)
        return {"shift": started["shift"], "factor": jnp.diag(started["log_scale"].reshape(-1))}

    return layer(
        spec=describe("triangular_affine", scale_floor=scale_floor), init=init, transform=transform, invert=invert,
        log_det=log_det, fit_to_data=fit_to_data,
    )  # fmt: skip


EXAMPLES = {"triangular_affine": [(triangular_affine(), (2, 3, 1)), (triangular_affine(), (4,)), (triangular_affine(), (1,))]}
