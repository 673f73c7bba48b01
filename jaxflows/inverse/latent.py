"""The posterior of the latent, which the methods that sample or search in the latent share.

    log p(z, b) = log N(z; 0, I) + log p(b | A(f(z))),   f = decode.

Evaluations are counted as everywhere: a decode counts what it reports, and one with its gradient counts twice that.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow, standard_normal_log_prob
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, log_likelihood


def log_joint(
    flow: Flow, params: Params, measurement: NoisyMeasurement, sigma: float, z: jax.Array, heat: Any = 1.0
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """log p(z, b) with the likelihood's logarithm over ``heat``, and ``(event, block evaluations)``.

    Args:
        flow, params, measurement: the problem.
        sigma: smoothing of a measurement without noise.
        z: (*latent,).
        heat: temperature of the likelihood.
    """
    y, info = flow.decode(params, z)
    value = standard_normal_log_prob(z) + log_likelihood(measurement, sigma, y) / heat
    return value, (y, info.evaluations)


@functools.partial(jax.jit, static_argnums=0)
def decode_all(flow: Flow, params: Params, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(events, block evaluations)`` of latents (S, *latent)."""
    events, info = jax.vmap(lambda z: flow.decode(params, z))(latents)
    return events, jnp.sum(info.evaluations)


def accept(log_uniform: jax.Array, log_ratio: jax.Array, proposed: Any, current: Any) -> tuple[Any, jax.Array]:
    """Metropolis: the proposed state where log u < log_ratio, and the chance it had; NaN is refused."""
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    taken = log_uniform < log_ratio
    state = jax.tree.map(lambda new, old: jnp.where(taken, new, old), proposed, current)
    return state, jnp.exp(jnp.minimum(log_ratio, 0.0))
