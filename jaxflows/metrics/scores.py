"""Scores of completions against the truth, over the missing entries only.

Shapes throughout: ``samples`` (rows, num_samples, *event), ``truth`` and boolean ``observed`` (rows, *event),
True where an entry was seen, and so not scored. With nothing missing a score is NaN. All run under jit, vmap and grad.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _missing_only(samples: jax.Array, truth: jax.Array, observed: jax.Array, least_samples: int) -> tuple[jax.Array, jax.Array]:
    """Samples and truth with zeros where observed, so that nothing there reaches a score or its gradient."""
    if truth.shape != observed.shape or observed.dtype != jnp.bool_:
        raise ValueError(f"expected a boolean mask of the truth's shape {truth.shape}; got {observed.dtype} {observed.shape}")
    if samples.ndim < 2 or (samples.shape[0], *samples.shape[2:]) != truth.shape or samples.shape[1] < least_samples:
        raise ValueError(
            f"expected samples of shape (rows, num_samples >= {least_samples}, *event) for rows and events "
            f"{truth.shape}; got {samples.shape}"
        )
    return jnp.where(observed[:, None], 0.0, samples), jnp.where(observed, 0.0, truth)


def _pooled(values: jax.Array, observed: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(observed, 0.0, values)) / jnp.sum(~observed)


def rmse_mean(samples: jax.Array, truth: jax.Array, observed: jax.Array) -> jax.Array:
    """sqrt(mean over missing entries of (mean of the samples - truth)^2), pooled: the error of a point estimate.

    For num_samples draws of the exact posterior it exceeds that of the exact mean by a factor sqrt(1 + 1/num_samples).
    """
    samples, truth = _missing_only(samples, truth, observed, 1)
    return jnp.sqrt(_pooled((jnp.mean(samples, axis=1) - truth) ** 2, observed))


def rmse_sample(samples: jax.Array, truth: jax.Array, observed: jax.Array) -> jax.Array:
    """sqrt(mean over missing entries and samples of (sample - truth)^2), pooled: the error of one sample.

    sqrt(2) times the error of the posterior mean when the posterior is exact; never compare one with the other.
    """
    samples, truth = _missing_only(samples, truth, observed, 1)
    return jnp.sqrt(_pooled(jnp.mean((samples - truth[:, None]) ** 2, axis=1), observed))


def diversity(samples: jax.Array, observed: jax.Array) -> jax.Array:
    """sqrt(mean over missing entries of the samples' variance), pooled: how far the samples are from each other.

        E (s - s')^2 / 2 an entry, over pairs of different samples

    Of draws of the exact posterior it is on average the error of the exact mean, sqrt(1 + 1/num_samples) below `rmse_mean`; a
    sampler that shows less is too sure. Its square is unbiased in the number of samples. Needs at least two.

    Args:
        samples, observed: as above.
    """
    samples, _ = _missing_only(samples, jnp.zeros(observed.shape, samples.dtype), observed, 2)
    return jnp.sqrt(_pooled(jnp.var(samples, axis=1, ddof=1), observed))


def interval_coverage(key: jax.Array, samples: jax.Array, truth: jax.Array, observed: jax.Array, level: float) -> jax.Array:
    """Fraction of missing entries inside their central interval of probability ``level``; calibrated means equal to it.

        u = (#{s < y} + V (1 + #{s = y})) / (num_samples + 1),  V ~ U[0, 1);   covered when |u - 1/2| <= level / 2

    The truth's rank is randomised, so u is exactly uniform when truth and samples are exchangeable, ties (constant
    pixels) and few samples included (Czado, Gneiting and Held 2009, Sec. 2.1).

    Args:
        key: random key for the ranks, used once.
        samples, truth, observed: as above.
        level: probability of the interval, in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected an interval of probability in (0, 1); got {level}")
    samples, truth = _missing_only(samples, truth, observed, 1)
    below = jnp.sum(samples < truth[:, None], axis=1)
    tied = jnp.sum(samples == truth[:, None], axis=1)
    rank = (below + jax.random.uniform(key, truth.shape) * (1 + tied)) / (samples.shape[1] + 1)
    return _pooled((jnp.abs(rank - 0.5) <= level / 2).astype(truth.dtype), observed)


def crps(samples: jax.Array, truth: jax.Array, observed: jax.Array, *, antithetic: bool = False) -> jax.Array:
    """Continuous ranked probability score, E|s - y| - E|s - s'| / 2 an entry, averaged; less is better.

    The pair term leaves out s = s', so the score is unbiased in the number of samples (Ferro 2014). It is proper: on
    average the true posterior scores least. Antithetic samples (`jaxflows.complete`) lie farther from their partners than
    from others, which would score too well: with ``antithetic`` the pair term leaves out partners 2i and 2i + 1 too.

    Cost: O(num_samples log num_samples) an entry, by sorting. Needs at least two samples, antithetic ones at least three.
    """
    samples, truth = _missing_only(samples, truth, observed, 3 if antithetic else 2)
    n = samples.shape[1]
    error = jnp.mean(jnp.abs(samples - truth[:, None]), axis=1)
    # sum over pairs of |s_i - s_j| = 2 sum_i (2 i - n + 1) s_(i), i from 0
    weight = (2 * jnp.arange(n) - n + 1).astype(samples.dtype)
    total, pairs = 2 * jnp.tensordot(jnp.sort(samples, axis=1), weight, (1, 0)), n * (n - 1)
    if antithetic:
        whole = n // 2 * 2
        total -= 2 * jnp.sum(jnp.abs(samples[:, 0:whole:2] - samples[:, 1:whole:2]), axis=1)
        pairs -= whole
    spread = total / pairs
    return _pooled(error - spread / 2, observed)


def energy_score(samples: jax.Array, truth: jax.Array, observed: jax.Array) -> jax.Array:
    """E||s - y|| - E||s - s'|| / 2 over the missing entries of a row together, averaged over rows that miss any.

    The CRPS of vectors (Gneiting and Raftery 2007, Eq. 22): unlike it, it sees the dependence between entries. The pair
    term leaves out s = s'. Cost: O(num_samples^2 d) a row. Needs at least two samples.
    """
    samples, truth = _missing_only(samples, truth, observed, 2)
    rows, n = samples.shape[:2]
    hidden = ~observed.reshape(rows, -1)

    def score(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        draws, y, mask = row

        def distance(t: jax.Array) -> jax.Array:
            squares = jnp.sum(jnp.where(mask, draws - t, 0.0) ** 2, axis=-1)
            # a sample's distance to itself has no derivative of its own
            positive = squares > 0
            return jnp.sum(jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0))

        return distance(y) / n - jnp.sum(jax.lax.map(distance, draws)) / (2 * n * (n - 1))

    scores = jax.lax.map(score, (samples.reshape(rows, n, -1), truth.reshape(rows, -1), hidden))
    missing = jnp.any(hidden, axis=1)
    return jnp.sum(jnp.where(missing, scores, 0.0)) / jnp.sum(missing)
