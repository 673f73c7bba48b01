"""The Gaussian of greatest likelihood from rows with holes, by expectation maximisation (Dempster, Laird and Rubin 1977).

    E    y_H | y_O ~ N( mu_H + K (y_O - mu_O),  C_HH - K C_OH ),   K = C_HO C_OO^{-1},   row by row
    M    mu = mean E[y],   C = mean E[(y - mu)(y - mu)^T] + ridge I

Each step raises

    objective = 1/n sum_rows log N(y_O; mu_O, C_OO) - ridge/2 tr C^{-1},

the second term being what the ridge in the covariance maximises with it. Under MCAR and MAR its maximum needs no model of the
mask; it is what any model of incomplete data has to beat (EMFlow's tables rest on it). NumPy in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxflows.data.incomplete_rows import check_columns, check_finite, with_holes
from jaxflows.metrics.gaussian_baseline import Gaussian


class GaussianEmReport(NamedTuple):
    """How the maximisation went.

    Attributes:
        objective: (steps + 1,) after each step, beginning with the start, in nats a row; it never falls.
        steps: EM steps taken.
        converged: whether the last step raised the objective by less than the tolerance.
        empty_rows: rows with nothing observed, which say nothing.
    """

    objective: np.ndarray
    steps: int
    converged: bool
    empty_rows: int


def fit_gaussian_em(
    rows: np.ndarray, observed: np.ndarray, *, shrinkage: float = 1e-4, max_steps: int = 500, tol: float = 1e-6
) -> tuple[Gaussian, GaussianEmReport]:
    """Mean and covariance of greatest likelihood from incomplete rows.

    With nothing missing it is `jaxflows.metrics.fit_gaussian`, in one step.

    Args:
        rows: (n, *event); anything where hidden, NaN too.
        observed: boolean, (n, *event): True where observed; every column observed in some row.
        shrinkage: ridge, as a fraction of the mean variance of the observed values of a column.
        max_steps: EM steps at most.
        tol: rise of the objective, in nats a row, under which a step is the last.

    Returns:
        ``(gaussian, report)``; condition it by `jaxflows.metrics.gaussian_conditional`.

    Cost: a step takes O(d^3) for every different mask and O(n d^2).

    Example:
        >>> gaussian, report = fit_gaussian_em(table, ~np.isnan(table))
    """
    if not shrinkage > 0:
        raise ValueError(f"expected shrinkage > 0; got {shrinkage}")
    if max_steps < 1 or not tol >= 0:
        raise ValueError(f"expected max_steps >= 1 and tol >= 0; got {max_steps} and {tol}")
    event_shape = np.shape(rows)[1:]
    flat, seen = flat_rows(rows, observed)
    some = seen.any(axis=1)
    flat, seen = flat[some], seen[some]
    mean, variance = np.mean(flat, axis=0, where=seen), np.var(flat, axis=0, where=seen)
    # data without any spread still needs a positive definite covariance
    ridge = shrinkage * (float(variance.mean()) or 1.0)
    covariance = np.diag(variance + ridge)
    groups = list(_by_mask(seen))
    objective = []
    converged = False
    for _ in range(max_steps + 1):
        completed, spread, log_likelihood = _expect(mean, covariance, flat, groups)
        objective.append(log_likelihood - 0.5 * ridge * float(np.trace(np.linalg.inv(covariance))))
        converged = len(objective) > 1 and objective[-1] - objective[-2] < tol
        if converged or len(objective) > max_steps:
            break
        mean = completed.mean(axis=0)
        centred = completed - mean
        covariance = (centred.T @ centred + spread) / len(flat) + ridge * np.eye(flat.shape[1])
    report = GaussianEmReport(np.asarray(objective), len(objective) - 1, converged, int(np.sum(~some)))
    return Gaussian(event_shape, mean, np.linalg.cholesky(covariance)), report


def flat_rows(rows: np.ndarray, observed: np.ndarray, *, columns: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) in float64 with 0 in every hole, and their mask; ValueError for what a Gaussian cannot be fitted to.

    ``columns`` says whether every one has to be observed in some row.
    """
    rows = np.asarray(rows)
    if rows.ndim < 2 or len(rows) < 2:
        raise ValueError(f"expected at least two rows of events, (n, *event); got shape {rows.shape}")
    values, observed = with_holes(rows.astype(np.float64), observed)
    check_finite(values)
    if columns:
        check_columns(values, observed, constants=True)
    return values.reshape(len(rows), -1), observed.reshape(len(rows), -1)


def observed_log_likelihood(gaussian: Gaussian, rows: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """log N(y_O; mu_O, C_OO) of each row, (n,), in nats; 0 for a row with nothing observed."""
    values, observed = with_holes(np.asarray(rows, np.float64), observed)
    if values.shape[1:] != gaussian.event_shape:
        raise ValueError(f"expected rows (n, *{gaussian.event_shape}); got {values.shape}")
    flat, seen = (part.reshape(len(values), -1) for part in (values, observed))
    covariance = gaussian.factor @ gaussian.factor.T
    result = np.zeros(len(flat))
    for numbers, o in _by_mask(seen):
        result[numbers] = _log_density(covariance[np.ix_(o, o)], flat[np.ix_(numbers, o)] - gaussian.mean[o])
    return result


def _by_mask(seen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers and the coordinates observed, for every different mask."""
    masks, which = np.unique(seen, axis=0, return_inverse=True)
    which = which.reshape(-1)
    for number, mask in enumerate(masks):
        yield np.flatnonzero(which == number), np.flatnonzero(mask)


def _log_density(covariance: np.ndarray, centred: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, centred.T)
    log_det = 2.0 * np.sum(np.log(np.diag(factor)))
    return -0.5 * (np.sum(white**2, axis=0) + log_det + len(covariance) * math.log(2 * math.pi))


def _expect(
    mean: np.ndarray, covariance: np.ndarray, flat: np.ndarray, groups: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows with conditional means in their holes, the sum of the conditional covariances, and the mean log-likelihood."""
    completed, spread, total = flat.copy(), np.zeros_like(covariance), 0.0
    for numbers, o in groups:
        h = np.setdiff1d(np.arange(len(mean)), o)
        centred = flat[np.ix_(numbers, o)] - mean[o]
        total += float(np.sum(_log_density(covariance[np.ix_(o, o)], centred)))
        gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, h)]).T
        completed[np.ix_(numbers, h)] = mean[h] + centred @ gain.T
        spread[np.ix_(h, h)] += len(numbers) * (covariance[np.ix_(h, h)] - gain @ covariance[np.ix_(o, h)])
    return completed, spread, total / len(flat)
