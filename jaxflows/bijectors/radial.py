"""The radial layer v = u + beta h(alpha, |u - u0|) (u - u0) (Rezende and Mohamed 2015), with its exact inverse."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer
from jaxflows.bijectors.planar import bounding_factor, check_margin
from jaxflows.factory import factory
from jaxflows.solvers.inversion_report import report_inversion

# alpha never falls below it: at 0 the layer has no derivative at its centre
ALPHA_FLOOR = 1e-3


def _norm(t: jax.Array) -> jax.Array:
    """The 2-norm over the whole event, with derivative 0 at 0."""
    square = jnp.sum(t**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


@factory
def radial(*, margin: float = 1e-3) -> Bijector:
    """v = u + beta h (u - u0), h = 1 / (alpha + r), r = |u - u0| the 2-norm over the whole event.

        log|det dv/du| = (d - 1) log(1 + beta h) + log(1 + beta alpha h^2)

    Invertible because alpha > 0 and beta > -(1 - margin) alpha for any raw parameters: alpha = softplus(alpha_raw) + 1/1000
    and beta = alpha x k(x), x = beta_raw and k as `jaxflows.bijectors.planar.bounding_factor`.

    The inverse finds r from |v - u0| = r (1 + beta h), a quadratic with one root that is not negative:
    r^2 + p r - alpha |v - u0| = 0, p = alpha + beta - |v - u0|.

    Args:
        margin: how far beta / alpha stays from -1, in (0, 1); the inverse's Lipschitz constant grows like 1 / margin.

    Cost: 2d multiplications either way, no iteration.

    References: Rezende and Mohamed 2015 (Variational inference with normalizing flows), Eq 14 and Appendix A.
    """
    check_margin(margin)

    def init(key: jax.Array, shape: Shape) -> Params:
        size = math.prod(shape)
        draw = 0.1 * jax.random.normal(key, (1 + size,))
        # alpha is about the radius of white data, so that the layer has a say at every radius met
        return {"centre": draw[1:].reshape(shape), "alpha_raw": jnp.sqrt(jnp.full((), size, draw.dtype)), "beta_raw": draw[0]}

    def alpha_and_beta(params: Params) -> tuple[jax.Array, jax.Array]:
        alpha = jax.nn.softplus(params["alpha_raw"]) + ALPHA_FLOOR
        return alpha, alpha * params["beta_raw"] * bounding_factor(params["beta_raw"], margin)

    def transform(params: Params, u: jax.Array) -> jax.Array:
        alpha, beta = alpha_and_beta(params)
        offset = u - params["centre"]
        return u + beta / (alpha + _norm(offset)) * offset

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        alpha, beta = alpha_and_beta(params)
        offset = v - params["centre"]
        image = _norm(offset)
        p = alpha + beta - image
        root = jnp.sqrt(p**2 + 4.0 * alpha * image)
        # of the root's two forms the one without cancellation; |p| keeps the other finite where it is not taken
        r = jnp.where(p > 0, 2.0 * alpha * image / (root + jnp.abs(p)), 0.5 * (root - p))
        u = params["centre"] + (alpha + r) / (alpha + r + beta) * offset
        return u, report_inversion(transform, params, u, v, 0)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        alpha, beta = alpha_and_beta(params)
        h = 1.0 / (alpha + _norm(u - params["centre"]))
        return (u.size - 1) * jnp.log1p(beta * h) + jnp.log1p(beta * alpha * h**2)

    return layer(
        spec=describe("radial", margin=margin), init=init, transform=transform, invert=invert, log_det=log_det, blocks=1
    )


EXAMPLES = {"radial": [(radial(), (5,)), (radial(margin=0.1), (2, 3)), (radial(), (1,))]}
