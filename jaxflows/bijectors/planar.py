"""The planar layer v = u + u_hat tanh(w.u + b) (Rezende and Mohamed 2015), with its exact inverse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer
from jaxflows.factory import factory
from jaxflows.solvers.implicit_root import implicit_root
from jaxflows.solvers.inversion_report import report_inversion
from jaxflows.solvers.monotone_root import monotone_root


def check_margin(margin: float) -> None:
    """Raise ValueError when a margin is not in (0, 1)."""
    if not 0.0 < margin < 1.0:
        raise ValueError(f"expected 0 < margin < 1; got {margin}")


def bounding_factor(x: jax.Array, margin: float) -> jax.Array:
    """k(x) = (1 - margin) / (1 + softplus(-x)), for which x k(x) > -(1 - margin) whatever x is.

    x k(x) increases from -(1 - margin) to infinity, so the bound costs nothing else; and nothing is divided by, so that no
    raw parameter is a special case (the usual correction along w / |w|^2 is undefined at w = 0).
    """
    return (1.0 - margin) / (1.0 + jax.nn.softplus(-x))


def _equation(args: Any, t: jax.Array) -> jax.Array:
    gain, bias, image = args
    return t + gain * jnp.tanh(t + bias) - image


def _divide(args: Any, t: jax.Array, b: jax.Array) -> jax.Array:
    gain, bias, _ = args
    return b / (1.0 + gain * (1.0 - jnp.tanh(t + bias) ** 2))


_solve = monotone_root(_equation)
_implicit = implicit_root(_equation, _divide)


@factory
def planar(*, margin: float = 1e-3) -> Bijector:
    """v = u + u_hat tanh(w.u + b), log|det dv/du| = log(1 + w.u_hat (1 - tanh(w.u + b)^2)), on the flattened event.

    Invertible because w.u_hat > -1 + margin for any raw parameters: u_hat = k(w.u_raw) u_raw, k as `bounding_factor`. Every
    invertible planar map within the margin is of this form.

    The inverse solves one increasing scalar equation for t = w.u, with w.v = t + w.u_hat tanh(t + b), and then
    u = v - u_hat tanh(t + b).

    Args:
        margin: how far w.u_hat stays from -1, in (0, 1); the inverse's Lipschitz constant grows like 1 / margin.

    Cost: 2d multiplications forward; as many backward, and about six scalar Newton steps.

    References: Rezende and Mohamed 2015 (Variational inference with normalizing flows), Eq 10 to 12 and Appendix A.
    """
    check_margin(margin)

    def init(key: jax.Array, shape: Shape) -> Params:
        draw = jax.random.normal(key, (2, *shape))
        # near the identity, where every constraint can be solved: |w| is about 1 and |u_hat| about 0.1
        w, u_raw = draw / jnp.sqrt(draw[0].size)
        return {"w": w, "u_raw": 0.1 * u_raw, "bias": jnp.zeros(())}

    def parts(params: Params) -> tuple[jax.Array, jax.Array]:
        product = jnp.vdot(params["w"], params["u_raw"])
        factor = bounding_factor(product, margin)
        # the product, not w.u_hat: its rounding cannot cross the bound
        return factor * params["u_raw"], factor * product

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return u + parts(params)[0] * jnp.tanh(jnp.vdot(params["w"], u) + params["bias"])

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        with jax.default_matmul_precision("highest"):
            u_hat, gain = parts(params)
            args = (gain, params["bias"], jnp.vdot(params["w"], v))
            fixed_gain, fixed_bias, image = jax.lax.stop_gradient(args)
            reach = jnp.abs(fixed_gain)
            t, steps = _solve((fixed_gain, fixed_bias, image), image - reach, image + reach)
            u = v - u_hat * jnp.tanh(_implicit(args, t) + params["bias"])
            return u, report_inversion(transform, params, u, v, steps)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        t = jnp.tanh(jnp.vdot(params["w"], u) + params["bias"])
        return jnp.log1p(parts(params)[1] * (1.0 - t**2))

    return layer(
        spec=describe("planar", margin=margin), init=init, transform=transform, invert=invert, log_det=log_det, blocks=1
    )


EXAMPLES = {"planar": [(planar(), (5,)), (planar(margin=0.1), (2, 3)), (planar(), (1,))]}
