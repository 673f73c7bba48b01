"""What importance weights say of a posterior: bounds, effective sample size, Pareto k, resampling.

With log w_i = log p(y_i) - log q(y_i,hidden), i = 1..S, drawn from q:

    bound      mean log w                      <= log p(y_observed), its standard error beside it
    iw_bound   log mean w                      <= log p(y_observed) in expectation, tighter (Burda et al. 2016)
    ess        (sum w)^2 / sum w^2             of S
    pareto_k   shape of the generalised Pareto fitted to the largest weights (Vehtari et al. 2024): below 0.7 the
               weights can be trusted, above it q misses part of the posterior
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class WeightReport(NamedTuple):
    """Diagnostics of one set of log-weights, (S,). A draw that did not converge has weight zero and is counted.

    Attributes:
        bound: mean log-weight in nats.
        bound_std_error: its standard error.
        iw_bound: log of the mean weight.
        ess: effective sample size, between 1 and S; 0 when no draw converged.
        pareto_k: NaN with fewer than 25 usable draws, as the fit needs five tail weights.
    """

    bound: jax.Array
    bound_std_error: jax.Array
    iw_bound: jax.Array
    ess: jax.Array
    pareto_k: jax.Array


def usable(log_weights: jax.Array, converged: jax.Array) -> jax.Array:
    """Log-weights with minus infinity for draws that did not converge or have no finite weight."""
    return jnp.where(converged & jnp.isfinite(log_weights), log_weights, -jnp.inf)


def unweighted(converged: jax.Array, dtype: Any) -> tuple[jax.Array, WeightReport]:
    """Log-weights (S,) of draws that count alike, minus infinity where one did not converge, and a report of NaN."""
    log_weights = jnp.where(converged, 0.0, -jnp.inf).astype(dtype)
    return log_weights, WeightReport(*(jnp.full((), jnp.nan, dtype) for _ in WeightReport._fields))


def weight_report(log_weights: jax.Array) -> WeightReport:
    """Diagnose log-weights (S,), minus infinity where a draw is unusable (see `usable`)."""
    good = jnp.isfinite(log_weights)
    count = jnp.sum(good)
    divisor = jnp.maximum(count, 1)
    bound = jnp.sum(jnp.where(good, log_weights, 0.0)) / divisor
    squares = jnp.sum(jnp.where(good, (log_weights - bound) ** 2, 0.0))
    error = jnp.sqrt(squares / jnp.maximum(divisor - 1, 1) / divisor)
    total = jax.scipy.special.logsumexp(log_weights)
    ess = jnp.where(count > 0, jnp.exp(2 * total - jax.scipy.special.logsumexp(2 * log_weights)), 0.0)
    return WeightReport(
        bound=jnp.where(count > 0, bound, -jnp.inf),
        bound_std_error=jnp.where(count > 1, error, jnp.inf),
        iw_bound=total - jnp.log(log_weights.size),
        ess=ess,
        pareto_k=pareto_k(log_weights),
    )


def pareto_k(log_weights: jax.Array) -> jax.Array:
    """Shape k of the generalised Pareto distribution fitted to the largest weights.

    The M = min(S/5, 3 sqrt(S)) largest are fitted by Zhang and Stephens (2009), with the prior of Vehtari et al. (2024)
    that pulls k to 1/2 as ten observations would.

    Args:
        log_weights: (S,); minus infinity counts as weight zero.

    Returns:
        k, or NaN when S < 25 or fewer than five tail weights are positive.
    """
    size = log_weights.shape[0]
    tail = int(min(size / 5, 3 * size**0.5))
    if tail < 5:
        return jnp.full((), jnp.nan, log_weights.dtype)
    ordered = jnp.sort(log_weights)
    cut, largest = ordered[-tail - 1], ordered[-tail:]
    top = largest[-1]
    excess = jnp.exp(largest - top) - jnp.exp(cut - top)
    quartile = excess[int(tail / 4 + 0.5) - 1]
    candidates = 30 + int(tail**0.5)
    grid = jnp.arange(1, candidates + 1, dtype=log_weights.dtype)
    tiny = jnp.finfo(log_weights.dtype).tiny
    theta = 1 / excess[-1] + (1 - jnp.sqrt(candidates / (grid - 0.5))) / (3 * jnp.maximum(quartile, tiny))
    k_of = jnp.mean(jnp.log1p(-theta[:, None] * excess[None, :]), axis=1)
    profile = tail * (jnp.log(-theta / k_of) - k_of - 1)
    weights = jax.nn.softmax(jnp.where(jnp.isfinite(profile), profile, -jnp.inf))
    mean_theta = jnp.sum(jnp.where(weights > 0, weights * theta, 0.0))
    k = jnp.mean(jnp.log1p(-mean_theta * excess))
    shrunk = (tail * k + 10 * 0.5) / (tail + 10)
    return jnp.where((jnp.sum(excess > 0) >= 5) & jnp.isfinite(cut), shrunk, jnp.nan)


def resample(key: jax.Array, samples: jax.Array, log_weights: jax.Array, num_samples: int) -> jax.Array:
    """Self-normalised systematic resampling: ``num_samples`` of ``samples`` with chances proportional to their weights.

    Args:
        key: random key, used once.
        samples: (S, *event).
        log_weights: (S,).
        num_samples: how many to return.

    Returns:
        (num_samples, *event). As S grows they are distributed as p(y | y_observed) whatever q is.
    """
    chances = jnp.cumsum(jax.nn.softmax(log_weights))
    ticks = (jnp.arange(num_samples) + jax.random.uniform(key)) / num_samples
    picks = jnp.clip(jnp.searchsorted(chances, ticks * chances[-1]), 0, samples.shape[0] - 1)
    return samples[picks]
