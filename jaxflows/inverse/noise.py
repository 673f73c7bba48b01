"""Noise models: the density p(b | A y) of what was read off, given what an instrument without noise would have read.

Each is made by a factory and is a pytree of arrays, so that one compiled program serves every width of the noise. Those that
clip or quantise AFTER the noise, as instruments do, are densities too: the posterior is smooth where the reading is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, log_ndtr
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow

# Poisson rates below this have their logarithm continued by its tangent, so that a search can leave the negative rates
LEAST_RATE = 1e-3


class Noise(NamedTuple):
    """p(b | clean) for clean = A(y), both (m,).

    Attributes:
        log_prob: ``(b, clean) -> log p(b | clean)`` in nats, minus infinity for a b that cannot be; None without noise.
        residual: ``(b, clean) -> (m,)``, how far clean is from the values that b stands for.
        sigma: standard deviation, () or (m,), where the noise is Gaussian and nothing else; None otherwise.
    """

    log_prob: Partial | None
    residual: Partial
    sigma: jax.Array | None


def _difference(b: jax.Array, clean: jax.Array) -> jax.Array:
    return b - clean


def _width(name: str, value: Any) -> jax.Array:
    """A positive width, () or (m,); raises ValueError otherwise."""
    checked = np.asarray(value, float)
    if checked.ndim > 1 or not np.all(np.isfinite(checked) & (checked > 0)):
        raise ValueError(f"expected {name} > 0, one number or one a measurement; got {value}")
    return jnp.asarray(checked, jnp.result_type(float))


def none() -> Noise:
    """b = A(y), exactly."""
    return Noise(None, Partial(_difference), None)


def normal_log_prob(sigma: jax.Array, residual: jax.Array) -> jax.Array:
    """log N(residual; 0, sigma^2) summed over the measurements, sigma () or (m,)."""
    return jnp.sum(-0.5 * (residual / sigma) ** 2 - jnp.log(sigma) - 0.5 * math.log(2 * math.pi))


def _gaussian_log_prob(sigma: jax.Array, b: jax.Array, clean: jax.Array) -> jax.Array:
    return normal_log_prob(sigma, b - clean)


def gaussian(sigma: Any) -> Noise:
    """b = A(y) + sigma e, e ~ N(0, I): for a linear A conditioned exactly (docs/inverse.md).

    Args:
        sigma: standard deviation, one number or one a measurement (m,).
    """
    width = _width("sigma", sigma)
    return Noise(Partial(_gaussian_log_prob, width), Partial(_difference), width)


def _laplace_log_prob(scale: jax.Array, b: jax.Array, clean: jax.Array) -> jax.Array:
    return jnp.sum(-jnp.abs(b - clean) / scale - jnp.log(2.0 * scale))


def laplace(scale: Any) -> Noise:
    """b = A(y) + scale e, e of density exp(-|e|) / 2: outliers weigh less than under Gaussian noise.

    Args:
        scale: one number or one a measurement (m,); the standard deviation is sqrt(2) scale.
    """
    return Noise(Partial(_laplace_log_prob, _width("scale", scale)), Partial(_difference), None)


def _poisson_log_prob(gain: jax.Array, b: jax.Array, clean: jax.Array) -> jax.Array:
    rate = gain * clean
    tangent = math.log(LEAST_RATE) + (rate - LEAST_RATE) / LEAST_RATE
    log_rate = jnp.where(rate > LEAST_RATE, jnp.log(jnp.maximum(rate, LEAST_RATE)), tangent)
    possible = jnp.all((b >= 0) & (b == jnp.round(b)))
    return jnp.where(possible, jnp.sum(b * log_rate - rate - gammaln(b + 1.0)), -jnp.inf)


def _rate_difference(gain: jax.Array, b: jax.Array, clean: jax.Array) -> jax.Array:
    return b / gain - clean


def poisson(gain: Any = 1.0) -> Noise:
    """b ~ Poisson(gain A(y)): counts of photons. Rates below `LEAST_RATE` are continued, not cut off, for the gradient's sake.

    Args:
        gain: expected counts a unit of A(y), one number or one a measurement.
    """
    width = _width("gain", gain)
    return Noise(Partial(_poisson_log_prob, width), Partial(_rate_difference, width), None)


def _log_interval(low: jax.Array, high: jax.Array) -> jax.Array:
    """log(Phi(high) - Phi(low)) for low < high, accurate in both tails."""
    # by symmetry the interval may be moved to the left of zero, where log Phi has no cancellation
    flip = low + high > 0
    left, right = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    upper = log_ndtr(right)
    return upper + jnp.log(-jnp.expm1(jnp.minimum(log_ndtr(left) - upper, -jnp.finfo(low.dtype).tiny)))


def _quantised_log_prob(arrays: tuple[jax.Array, jax.Array], b: jax.Array, clean: jax.Array) -> jax.Array:
    step, sigma = arrays
    cells = jnp.sum(_log_interval((b - 0.5 * step - clean) / sigma, (b + 0.5 * step - clean) / sigma))
    possible = jnp.all(jnp.abs(b / step - jnp.round(b / step)) < 1e-2)
    return jnp.where(possible, cells, -jnp.inf)


def _outside_cell(step: jax.Array, b: jax.Array, clean: jax.Array) -> jax.Array:
    gap = b - clean
    return jnp.sign(gap) * jnp.maximum(jnp.abs(gap) - 0.5 * step, 0.0)


def quantised(step: Any, sigma: Any) -> Noise:
    """b = step round((A(y) + sigma e) / step), e ~ N(0, I): P(b | y) is the normal mass of the cell of b.

    Args:
        step: distance of two levels, which are the multiples of it.
        sigma: standard deviation before the rounding, one number or one a measurement.
    """
    size, width = _width("step", step), _width("sigma", sigma)
    return Noise(Partial(_quantised_log_prob, (size, width)), Partial(_outside_cell, size), None)


def _censored_log_prob(arrays: tuple[jax.Array, jax.Array, jax.Array], b: jax.Array, clean: jax.Array) -> jax.Array:
    lower, upper, sigma = arrays
    inside = -0.5 * ((b - clean) / sigma) ** 2 - jnp.log(sigma) - 0.5 * math.log(2 * math.pi)
    # a limit may be infinite: what is not at one must not see it, or its gradient would be NaN
    past = jnp.where(b <= lower, lower - clean, jnp.where(b >= upper, clean - upper, 0.0))
    terms = jnp.where((b <= lower) | (b >= upper), log_ndtr(past / sigma), inside)
    return jnp.where(jnp.all((b >= lower) & (b <= upper)), jnp.sum(terms), -jnp.inf)


def _outside_limits(limits: tuple[jax.Array, jax.Array], b: jax.Array, clean: jax.Array) -> jax.Array:
    return b - jnp.clip(clean, *limits)


def censored(lower: float, upper: float, sigma: Any) -> Noise:
    """b = clip(A(y) + sigma e, lower, upper), e ~ N(0, I): a reading at a limit says only that the limit was passed (Tobit).

    Args:
        lower, upper: the limits, lower < upper; infinite where there is none.
        sigma: standard deviation before the clipping, one number or one a measurement.
    """
    if not lower < upper:
        raise ValueError(f"expected lower < upper; got {lower} and {upper}")
    limits = (jnp.asarray(lower, jnp.result_type(float)), jnp.asarray(upper, jnp.result_type(float)))
    return Noise(Partial(_censored_log_prob, (*limits, _width("sigma", sigma))), Partial(_outside_limits, limits), None)


@functools.cache
def _density_of(flow: Flow) -> Callable[..., jax.Array]:
    def log_prob(params: Params, b: jax.Array, clean: jax.Array) -> jax.Array:
        return flow.log_prob(params, (b - clean).reshape(flow.event_shape))

    return log_prob


def of_flow(flow: Flow, params: Params) -> Noise:
    """b = A(y) + e with e drawn from a flow over the m measurements (Whang, Lei and Dimakis 2021): any noise with a density."""
    return Noise(Partial(_density_of(flow), params), Partial(_difference), None)
