"""Every score of a set of completions at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.metrics.scores import crps, energy_score, interval_coverage, rmse_mean, rmse_sample


class CompletionScores(NamedTuple):
    """Scores over the missing entries, as `jaxflows.metrics.scores` defines them; less is better but of the coverages.

    Attributes:
        rmse_mean: of the mean of the draws.
        rmse_sample: of the draws themselves.
        crps: an entry.
        energy: energy score, a row.
        coverage_50: share of the entries inside their central intervals of probability 0.5.
        coverage_90: of probability 0.9.
    """

    rmse_mean: float
    rmse_sample: float
    crps: float
    energy: float
    coverage_50: float
    coverage_90: float


@jax.jit
def _all(key: jax.Array, samples: jax.Array, truth: jax.Array, observed: jax.Array) -> tuple[jax.Array, ...]:
    case = (samples, truth, observed)
    # one key: the same ranks for both levels
    covers = (interval_coverage(key, *case, level) for level in (0.5, 0.9))
    return (rmse_mean(*case), rmse_sample(*case), crps(*case), energy_score(*case), *covers)


def completion_scores(key: jax.Array, samples: Any, truth: Any, observed: Any) -> CompletionScores:
    """Score draws against the truth.

    Args:
        key: random key, for the ranks of coverage, used once.
        samples: (rows, num_samples, *event), num_samples >= 2.
        truth: (rows, *event).
        observed: boolean, (rows, *event): True where seen, which is not scored.

    Cost: O(num_samples^2 d) a row, the energy score's.
    """
    truth = jnp.asarray(truth)
    values = _all(key, jnp.asarray(samples, truth.dtype), truth, jnp.asarray(observed))
    return CompletionScores(*(float(value) for value in values))
