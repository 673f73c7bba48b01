"""MICE and MissForest, by scikit-learn's `IterativeImputer`: one regression a column on the others, in turn.

MICE (van Buuren and Groothuis-Oudshoorn 2011) takes Bayesian ridge regressions and can draw; MissForest (Stekhoven and
Buehlmann 2012) takes random forests. Unlike most of their uses, what is fitted to the training rows completes the test rows.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from benchmarks.systems.imputed import Imputed, checked


def impute_mice(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    rounds: int = 10,
    neighbours: int | None = None,
    num_samples: int = 0,
) -> Imputed:
    """Bayesian ridge regressions; the mean by regression, draws by the posterior predictive of a second fit.

    Args:
        key: of the draws.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        rounds: over all columns.
        neighbours: columns that a regression takes, by their correlation; all when None.
        num_samples: draws a test row; they need a fit of their own.
    """
    from sklearn.linear_model import BayesianRidge

    result = _impute(key, BayesianRidge(), rounds, neighbours, (train_rows, train_mask), (test_rows, test_mask), False, 1)
    if num_samples == 0:
        return result
    drawn = _impute(
        key, BayesianRidge(), rounds, neighbours, (train_rows, train_mask), (test_rows, test_mask), True, num_samples
    )
    return result._replace(samples=drawn.samples, seconds=result.seconds + drawn.seconds, steps=result.steps + drawn.steps)


def impute_missforest(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    rounds: int = 10,
    trees: int = 100,
    neighbours: int | None = None,
) -> Imputed:
    """Random forests of ``trees`` trees, a third of the columns tried at a split; no draws."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(trees, max_features=1 / 3, random_state=0)
    return _impute(key, forest, rounds, neighbours, (train_rows, train_mask), (test_rows, test_mask), False, 1)


def _impute(
    key: jax.Array,
    regression: Any,
    rounds: int,
    neighbours: int | None,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    draws: bool,
    times: int,
) -> Imputed:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    (train_rows, train_mask), (test_rows, test_mask) = checked(*train), checked(*test)
    imputer = IterativeImputer(
        regression, max_iter=rounds, n_nearest_features=neighbours, sample_posterior=draws, min_value=0.0, max_value=1.0,
        random_state=int(jax.random.randint(key, (), 0, 2**31 - 1)), keep_empty_features=True,
    )  # fmt: skip
    began = time.perf_counter()
    with warnings.catch_warnings():
        # the number of rounds is what was asked for
        warnings.simplefilter("ignore", ConvergenceWarning)
        imputer.fit(np.where(train_mask, train_rows, np.nan))
    seconds = time.perf_counter() - began
    holes = np.where(test_mask, test_rows, np.nan)
    completed = np.stack([np.where(test_mask, test_rows, imputer.transform(holes)) for _ in range(times)], axis=1)
    mean = np.where(test_mask, test_rows, completed.mean(axis=1))
    return Imputed(mean, completed if draws else None, seconds, int(imputer.n_iter_))
