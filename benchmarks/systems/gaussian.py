"""The baselines: the mean of every column, and one Gaussian, by expectation maximisation or from pairs of observed entries."""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.systems.imputed import Imputed, checked
from jaxflows.metrics import Gaussian, fit_gaussian_em, fit_gaussian_pairs, gaussian_conditional


def impute_column_mean(
    key: jax.Array, train_rows: np.ndarray, train_mask: np.ndarray, test_rows: np.ndarray, test_mask: np.ndarray
) -> Imputed:
    """The mean of a column's observed entries, which says nothing of a row: the least that a system has to beat."""
    del key
    train_rows, train_mask = checked(train_rows, train_mask)
    test_rows, test_mask = checked(test_rows, test_mask)
    began = time.perf_counter()
    centre = train_rows.sum(axis=0) / np.maximum(train_mask.sum(axis=0), 1)
    seconds = time.perf_counter() - began
    return Imputed(np.where(test_mask, test_rows, centre), None, seconds, 1)


def impute(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    shrinkage: float = 1e-4,
    max_steps: int = 100,
    num_samples: int = 16,
) -> Imputed:
    """The Gaussian of greatest likelihood from the incomplete rows; its conditional mean and draws, clipped to [0, 1].

    Args:
        key: of the draws.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        shrinkage, max_steps: as `jaxflows.metrics.fit_gaussian_em`.
        num_samples: draws a test row.
    """
    train_rows, train_mask = checked(train_rows, train_mask)
    test_rows, test_mask = checked(test_rows, test_mask)
    began = time.perf_counter()
    gaussian, report = fit_gaussian_em(train_rows, train_mask, shrinkage=shrinkage, max_steps=max_steps)
    seconds = time.perf_counter() - began
    return _conditioned(key, gaussian, test_rows, test_mask, num_samples, seconds, report.steps)


def impute_pairwise(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    num_samples: int = 16,
) -> Imputed:
    """`jaxflows.metrics.fit_gaussian_pairs`: its conditional mean and draws, clipped to [0, 1].

    Args:
        key: of the draws.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        num_samples: draws a test row.
    """
    train_rows, train_mask = checked(train_rows, train_mask)
    test_rows, test_mask = checked(test_rows, test_mask)
    began = time.perf_counter()
    gaussian = fit_gaussian_pairs(train_rows, train_mask)
    seconds = time.perf_counter() - began
    return _conditioned(key, gaussian, test_rows, test_mask, num_samples, seconds, 1)


def _conditioned(
    key: jax.Array,
    gaussian: Gaussian,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    num_samples: int,
    seconds: float,
    steps: int,
) -> Imputed:
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    done = gaussian_conditional(gaussian, test_rows, test_mask, num_samples=num_samples, seed=seed)
    return Imputed(np.clip(done.mean, 0, 1), np.clip(done.samples, 0, 1), seconds, steps)
