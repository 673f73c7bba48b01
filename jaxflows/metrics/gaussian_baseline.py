"""The conditional of one Gaussian fitted to the training data: the baseline of every imputation table.

    y_H | y_O ~ N( mu_H + K (y_O - mu_O),  C_HH - K C_OH ),   K = C_HO C_OO^{-1}

It needs no training loop and beats the published MNIST errors of several deep models, so a flow that loses to it is not
finished. NumPy in float64, one row at a time: masks differ from row to row.
"""

from __future__ import annotations

import importlib.resources
import math
from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """N(mean, factor factor^T) on flattened events.

    Attributes:
        event_shape: shape of one event.
        mean: (d,).
        factor: lower triangular (d, d), the Cholesky factor of the regularised covariance.
    """

    event_shape: tuple[int, ...]
    mean: np.ndarray
    factor: np.ndarray

    def with_noise(self, variance: float) -> Gaussian:
        """The Gaussian of its events plus N(0, variance I); ValueError for a negative variance."""
        if not variance >= 0:
            raise ValueError(f"expected variance >= 0; got {variance}")
        covariance = self.factor @ self.factor.T + variance * np.eye(len(self.factor))
        return self._replace(factor=np.linalg.cholesky(covariance))


class GaussianCompletion(NamedTuple):
    """What the Gaussian says of rows with missing entries; observed entries are as given, with deviation 0.

    Attributes:
        mean: conditional mean, (rows, *event).
        std: conditional standard deviation of each entry, (rows, *event).
        samples: joint draws, (rows, num_samples, *event).
    """

    mean: np.ndarray
    std: np.ndarray
    samples: np.ndarray


def fit_gaussian(rows: np.ndarray, *, shrinkage: float = 1e-4) -> Gaussian:
    """Mean and covariance of complete data, the covariance regularised as C + shrinkage tr(C)/d I.

    Args:
        rows: (n, *event), finite, n >= 2.
        shrinkage: ridge, as a fraction of the mean variance of an entry. 1e-4 is for n much larger than d: it moves no
            MNIST error in the fourth digit and makes constant pixels harmless. Take more when n is near d or below.

    Cost: O(n d^2 + d^3).
    """
    rows = np.asarray(rows)
    if rows.ndim < 2 or len(rows) < 2:
        raise ValueError(f"expected at least two rows of events, (n, *event); got shape {rows.shape}")
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    if not np.all(np.isfinite(flat)):
        raise ValueError(f"expected complete, finite rows; got others, first in row {np.argmin(np.isfinite(flat).all(1))}")
    if not shrinkage > 0:
        raise ValueError(f"expected shrinkage > 0; got {shrinkage}")
    mean = flat.mean(0)
    centred = flat - mean
    covariance = centred.T @ centred / len(flat)
    # data without any spread still needs a positive definite covariance
    ridge = shrinkage * (np.trace(covariance) / flat.shape[1] or 1.0)
    return Gaussian(rows.shape[1:], mean, np.linalg.cholesky(covariance + ridge * np.eye(flat.shape[1])))


def gaussian_conditional(
    gaussian: Gaussian, rows: np.ndarray, observed: np.ndarray, *, num_samples: int = 0, seed: int = 0
) -> GaussianCompletion:
    """Condition the Gaussian on the observed entries of each row.

    Args:
        gaussian: from `fit_gaussian` or `load_mnist_gaussian`.
        rows: (n, *event), in the units the Gaussian was fitted in; hidden entries are ignored and may be NaN.
        observed: boolean, (n, *event), True where seen.
        num_samples: joint draws a row.
        seed: of the draws; a row's draws do not depend on the other rows.

    Cost: O(d_O^3 + d_O^2 d_H) a row, and O(d_H^3) more for samples; once for rows in turn that have the same mask.
    """
    rows, observed = np.asarray(rows, np.float64), np.asarray(observed)
    if rows.shape[1:] != gaussian.event_shape or observed.shape != rows.shape or observed.dtype != np.bool_:
        raise ValueError(
            f"expected rows (n, *{gaussian.event_shape}) and a boolean mask of their shape; "
            f"got {rows.shape} and {observed.dtype} {observed.shape}"
        )
    size = math.prod(gaussian.event_shape)
    covariance = gaussian.factor @ gaussian.factor.T
    mean = np.where(observed, rows, 0.0).reshape(len(rows), size)
    std = np.zeros((len(rows), size))
    samples = np.repeat(mean[:, None], num_samples, axis=1)
    masks = observed.reshape(len(rows), size)
    for i, o in enumerate(masks):
        h = ~o
        if not h.any():
            continue
        if i == 0 or (o != masks[i - 1]).any():
            gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, h)]).T
            conditional = covariance[np.ix_(h, h)] - gain @ covariance[np.ix_(o, h)]
            factor = np.linalg.cholesky(conditional) if num_samples else np.empty((0, 0))
        mean[i, h] = gaussian.mean[h] + gain @ (mean[i, o] - gaussian.mean[o])
        std[i, h] = np.sqrt(np.diagonal(conditional))
        if num_samples:
            noise = np.random.default_rng((seed, i)).standard_normal((num_samples, int(h.sum())))
            samples[i][:, h] = mean[i, h] + noise @ factor.T
    shape = (len(rows), num_samples, *gaussian.event_shape)
    return GaussianCompletion(mean.reshape(rows.shape), std.reshape(rows.shape), samples.reshape(shape))


def load_mnist_gaussian() -> Gaussian:
    """The shipped Gaussian of the 60,000 MNIST training digits, grey levels in [0, 1], events (28, 28).

    Stored as the float16 lower triangle of its Cholesky factor (0.49 MB), which stays positive definite however it is
    rounded. RMSE of its conditional mean on the 300 shipped test digits equals that of the float64 covariance to the
    fourth digit at 50 to 90% missing (benchmarks/results/make_gaussian_baseline.json).
    """
    source = importlib.resources.files("jaxflows.data") / "models" / "mnist_gaussian.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        mean, triangle = archive["mean"].astype(np.float64), archive["triangle"].astype(np.float64)
    factor = np.zeros((mean.size, mean.size))
    factor[np.tril_indices(mean.size)] = triangle
    return Gaussian((28, 28), mean, factor)
