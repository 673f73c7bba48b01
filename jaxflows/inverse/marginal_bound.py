"""The marginal bound of variational inference (Whang et al. 2021, supplement, Appendix B.2), estimated from below.

Coordinates (x_1, x_2) of the event are what a linear measurement sees and what it leaves free. The joint and the marginal bound
are

    J = E_q log p(x_1, x_2, b) - log q(x_1, x_2) = log p(b) - KL( q(x_1, x_2) || p(x_1, x_2 | b) )
    M = E_q log p(x_2, b) - log q(x_2)           = log p(b) - KL( q(x_2) || p(x_2 | b) )  >=  J,

and M tells of what is asked for. Its two densities are integrals over x_1. Let x_1^0 be a draw's own x_1, let x_1^1 ... x_1^K
be drawn from any tau(. | x_2), and

    W_K = sum_k p(x_1^k, x_2, b) / tau(x_1^k | x_2)   /   sum_k q(x_1^k, x_2) / tau(x_1^k | x_2),      k = 0 ... K.

W_0 is the joint weight. W_K is the ratio of two densities of the unordered x_1^0 ... x_1^K with x_2: draw (x_1, x_2) from
p(. , b), or from q, hide x_1 among K draws from tau, and forget which it was. A divergence falls when something is forgotten,
be it the place among the draws or the draws themselves, and from K to K + 1 one more is put among them. So for every K and
every tau

    J = E log W_0  <=  E log W_K  <=  E log W_(K+1)  <=  M  <=  log p(b),     E W_K = p(b),

E log W_K reaches M as K grows, and by Jensen E log of the mean of several W_K lies between E log W_K and log p(b). tau is the
Gaussian of q's own draws, a little wider.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.inverse.latent import decode_all
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, log_likelihood
from jaxflows.precision import full_precision

# draws of q that tau is fitted to, at least, and an entry
_FEWEST, _AN_ENTRY = 256, 4
# standard deviations of tau over those of q given x_2
_WIDER = 1.2
# added to covariances, relative to the mean variance: what float32 can invert
_RIDGE = 1e-6


class Marginal(NamedTuple):
    """The marginal bound, estimated from below by K draws.

    Attributes:
        bound: mean of ``log_weights`` in nats, between the joint and the marginal bound.
        log_weights: (S,), log W_K of every sample; W_K has the mean p(b), and weighs the x_2 of the samples.
    """

    bound: float
    log_weights: jax.Array


def refuse_unless_marginal(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    """Why there is no marginal bound; None where there is one."""
    if measurement.linear is None:
        return "expected a linear measurement for a marginal bound; got a function (leave marginal_draws at 0)"
    if measurement.values.size >= flow.size:
        return f"expected fewer than {flow.size} measurements for a marginal bound; got {measurement.values.size}"
    return None


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@full_precision
def marginal_log_weights(
    flow: Flow, posterior: Flow, inner: int, key: jax.Array, params: Params, theta: Params, measurement: NoisyMeasurement,
    sigma: float, events: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """log W_K of draws of q.

    Args:
        flow, params: p(y).
        posterior, theta: q(y).
        inner: K.
        key: of tau.
        measurement: linear, of fewer numbers than an event has.
        sigma: smoothing of a measurement without noise.
        events: (S, *event), drawn from q, independently of ``key``.

    Returns:
        (S,) in nats, and the block evaluations spent.

    Cost: K + 1 exact densities of p and of q a sample, and max(256, 4 d) draws of q and O(d^3) for tau.
    """
    assert measurement.linear is not None
    observation, seen = measurement.linear.observation, measurement.values.size
    order = jnp.argsort(observation.observed.reshape(-1), stable=True)
    free, measured = order[: flow.size - seen], order[flow.size - seen :]

    def coordinates(y: jax.Array) -> jax.Array:
        return observation.to_coordinates(y).reshape(-1)

    k_fit, k_inner = jax.random.split(key)
    latents = jax.random.normal(k_fit, (max(_FEWEST, _AN_ENTRY * flow.size), *posterior.latent_shape), events.dtype)
    fitted, spent = decode_all(posterior, theta, latents)
    flat = jax.vmap(coordinates)(fitted)
    mean = jnp.mean(flat, axis=0)
    covariance = (flat - mean).T @ (flat - mean) / len(flat)
    covariance = covariance + _RIDGE * jnp.trace(covariance) / flow.size * jnp.eye(flow.size, dtype=flat.dtype)
    across = covariance[jnp.ix_(free, measured)]
    gain = jax.scipy.linalg.solve(covariance[jnp.ix_(free, free)], across, assume_a="pos").T
    factor = _WIDER * jnp.linalg.cholesky(covariance[jnp.ix_(measured, measured)] - gain @ across)
    volume = jnp.sum(jnp.log(jnp.diag(factor))) + 0.5 * seen * math.log(2 * math.pi)

    def one(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        k, y = inputs
        own = coordinates(y)
        centre = mean[measured] + gain @ (own - mean)[free]
        first = jax.scipy.linalg.solve_triangular(factor, own[measured] - centre, lower=True)
        noise = jax.random.normal(k, (inner, seen), y.dtype)

        def moved(e: jax.Array) -> jax.Array:
            return observation.from_coordinates(own.at[measured].set(centre + factor @ e).reshape(y.shape))

        everywhere = jnp.concatenate([y[None], jax.vmap(moved)(noise)])
        log_tau = -0.5 * jnp.sum(jnp.concatenate([first[None], noise]) ** 2, axis=1) - volume
        log_p = jax.vmap(lambda t: flow.log_prob(params, t) + log_likelihood(measurement, sigma, t))(everywhere)
        log_q = jax.vmap(lambda t: posterior.log_prob(theta, t))(everywhere)
        return jax.nn.logsumexp(log_p - log_tau) - jax.nn.logsumexp(log_q - log_tau)

    values = jax.lax.map(one, (jax.random.split(k_inner, len(events)), events))
    densities = len(events) * (inner + 1) * (flow.bijector.blocks + posterior.bijector.blocks)
    return values, spent + densities
