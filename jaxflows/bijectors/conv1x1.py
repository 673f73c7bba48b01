"""The invertible 1x1 convolution of Glow (Kingma and Dhariwal 2018, Sec. 3.2), by its LU factors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.factory import factory


@factory
def conv1x1(*, bound: float = 5.0) -> Bijector:
    """v = W u at every pixel, W = P L (U + diag(e^s)), log|det dv/du| = pixels * sum(s), s = bound tanh(r / bound).

    L is lower triangular with a unit diagonal, U strictly upper triangular; P permutes the channels. W starts as a random
    rotation. P is never trained: it sorts the leaf ``order``, real numbers (so that they are saved, averaged and
    differentiated as all others, with gradient 0) of which only their order matters.

    It mixes channels: what is a mask before it is none after it. On a vector, it mixes all entries.

    Args:
        bound: largest |log| of an entry of the diagonal, so that W can neither overflow nor become singular.

    Cost: c^2 multiplications a pixel either way, c the number of channels: the inverse is two triangular solves.
    """
    if not bound > 0:
        raise ValueError(f"expected bound > 0; got {bound}")

    def init(key: jax.Array, shape: Shape) -> Params:
        output_shape(shape)
        rotation, _ = jnp.linalg.qr(jax.random.normal(key, (shape[-1], shape[-1])))
        factors, _, order = jax.lax.linalg.lu(rotation)
        diagonal = jnp.diagonal(factors)
        # a rotation whose columns change sign is one still, and the diagonal can then be positive
        factors = jnp.tril(factors, -1) + jnp.triu(factors, 1) * jnp.sign(diagonal)
        share = jnp.clip(jnp.log(jnp.abs(diagonal)) / bound, -0.999, 0.999)
        return {"factors": factors + jnp.diag(bound * jnp.arctanh(share)), "order": order.astype(factors.dtype)}

    def log_diagonal(params: Params) -> jax.Array:
        return bound * jnp.tanh(jnp.diagonal(params["factors"]) / bound)

    def triangles(params: Params) -> tuple[jax.Array, jax.Array]:
        factors = params["factors"]
        lower = jnp.tril(factors, -1) + jnp.eye(len(factors), dtype=factors.dtype)
        return lower, jnp.triu(factors, 1) + jnp.diag(jnp.exp(log_diagonal(params)))

    def transform(params: Params, u: jax.Array) -> jax.Array:
        lower, upper = triangles(params)
        # in two products, so that the inverse undoes each as it was rounded
        t = jnp.matmul(u, upper.T, precision=jax.lax.Precision.HIGHEST)
        t = jnp.matmul(t, lower.T, precision=jax.lax.Precision.HIGHEST)
        return t[..., jnp.argsort(params["order"])]

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        lower, upper = triangles(params)
        t = v[..., jnp.argsort(jnp.argsort(params["order"]))]
        columns = t.reshape(-1, t.shape[-1]).T
        columns = solve_triangular(upper, solve_triangular(lower, columns, lower=True, unit_diagonal=True))
        return columns.T.reshape(v.shape), no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return math.prod(u.shape[:-1]) * jnp.sum(log_diagonal(params))

    def output_shape(shape: Shape) -> Shape:
        if not shape:
            raise ValueError(f"expected an event with channels last; got shape {shape}")
        return shape

    return layer(
        spec=describe("conv1x1", bound=bound), init=init, transform=transform, invert=invert, log_det=log_det,
        output_shape=output_shape,
    )  # fmt: skip


EXAMPLES = {"conv1x1": [(conv1x1(), (2, 2, 3)), (conv1x1(bound=0.5), (4,)), (conv1x1(), (2, 1))]}
