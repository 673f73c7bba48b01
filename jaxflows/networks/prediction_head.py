"""A classifier on the latents of a flow: batch normalisation and a linear map without bias (IVCNF Sec. 4.2.1).

    logits = W ( scale (x - mean) / sqrt(variance + 1e-5) + bias ),   x the flattened latent

The paper squeezes the latent first, which only puts its entries into another order, and a linear map of all of them does not
see their order.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.networks.half_precision import in_bfloat16

_LEAST_VARIANCE = 1e-5


class PredictionHead(NamedTuple):
    """A trained head.

    Attributes:
        params: of `head_logits`.
        mean: (d,), of the latents of the training rows.
        variance: (d,), likewise.
    """

    params: Params
    mean: jax.Array
    variance: jax.Array

    def logits(self, x: jax.Array) -> jax.Array:
        """(..., classes) of flattened latents (..., d)."""
        return head_logits(self.params, x, self.mean, self.variance)


def fresh_head(size: int, classes: int) -> Params:
    """Parameters at which every class has the same chance."""
    return {"scale": jnp.ones(size), "bias": jnp.zeros(size), "weight": jnp.zeros((size, classes))}


def head_logits(params: Params, x: jax.Array, mean: jax.Array, variance: jax.Array, *, half: bool = False) -> jax.Array:
    """(..., classes) of flattened latents (..., d), normalised by the statistics given; ``half`` multiplies in bfloat16."""
    normal = (x - mean) * jax.lax.rsqrt(variance + _LEAST_VARIANCE)
    factors = params["scale"] * normal + params["bias"], params["weight"]
    return jnp.matmul(*(in_bfloat16(factors) if half else factors), preferred_element_type=x.dtype)


def weighted_moments(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (d,) of latents (n, d) with weights (n,)."""
    share = weights / jnp.maximum(jnp.sum(weights), 1.0)
    mean = share @ x
    return mean, share @ (x - mean) ** 2


def head_loss(params: Params, x: jax.Array, usable: jax.Array, labels: jax.Array, *, half: bool = False) -> jax.Array:
    """Mean cross-entropy in nats over the usable latents with a label, normalised by the moments of all usable ones.

    Args:
        params: of `head_logits`.
        x: (n, d).
        usable: (n,) boolean.
        labels: (n,) integers, -1 where unknown. 0 is returned when no label is known.
        half: multiply in bfloat16.
    """
    mean, variance = weighted_moments(x, usable.astype(x.dtype))
    log_probs = jax.nn.log_softmax(head_logits(params, x, mean, variance, half=half))
    known = usable & (labels >= 0)
    picked = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(known, picked, 0.0)) / jnp.maximum(jnp.sum(known), 1)
