"""The logit of a bounded event, for data in [0, 1] made continuous by dequantisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.factory import factory


@factory
def logit(*, margin: float = 0.05) -> Bijector:
    """v = logit(margin + (1 - 2 margin) u), for u in [0, 1].

    A mask survives it; a linear measurement made before it is not linear after it (docs/design.md, section 2).

    Args:
        margin: how far the interval is pulled in from both ends, in [0, 1/2); 0 maps the ends to infinity.
    """
    if not 0.0 <= margin < 0.5:
        raise ValueError(f"expected 0 <= margin < 0.5; got {margin}")
    width = 1.0 - 2.0 * margin

    def init(key: jax.Array, shape: Shape) -> Params:
        del key, shape
        return {}

    def transform(params: Params, u: jax.Array) -> jax.Array:
        del params
        t = margin + width * u
        return jnp.log(t) - jnp.log1p(-t)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        del params
        return (jax.nn.sigmoid(v) - margin) / width, no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        del params
        t = margin + width * u
        return jnp.sum(jnp.log(width) - jnp.log(t) - jnp.log1p(-t))

    return layer(spec=describe("logit", margin=margin), init=init, transform=transform, invert=invert, log_det=log_det)


def dequantise(key: jax.Array, levels: jax.Array, *, num_levels: int = 256) -> jax.Array:
    """Uniform dequantisation (Theis et al. 2016): (level + U[0, 1)) / num_levels, for integer levels in [0, num_levels).

    The log-density p of the result bounds the discrete log-likelihood from below by
    log P(level) >= E log p - d log(num_levels).

    Args:
        key: random key, used once.
        levels: integers, any shape.
        num_levels: number of grey levels.
    """
    if not jnp.issubdtype(levels.dtype, jnp.integer):
        raise ValueError(f"expected integer levels; got dtype {levels.dtype}")
    noisy = levels + jax.random.uniform(key, levels.shape)
    # floating point may round the sum up to the next level: keep it inside its own cell
    return jnp.minimum(noisy, jnp.nextafter(levels + 1.0, 0.0)) / num_levels


EXAMPLES = {"logit": [(logit(), (6,)), (logit(margin=0.2), (2, 3))]}
