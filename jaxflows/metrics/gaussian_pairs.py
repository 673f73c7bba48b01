"""A Gaussian from rows with holes, its covariances taken over the rows in which both entries were observed."""

from __future__ import annotations

import numpy as np

from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.metrics.gaussian_em import flat_rows


def fit_gaussian_pairs(
    rows: np.ndarray, observed: np.ndarray, *, floor: float = 1e-4, prior: Gaussian | None = None, prior_rows: float = 100.0
) -> Gaussian:
    """The Gaussian of pairwise covariances, made positive definite; far cheaper than expectation maximisation.

        C_ij = sum_n m_ni m_nj (y_ni - mean_i) (y_nj - mean_j) / sum_n m_ni m_nj

    with m the mask. Rows with holes scatter the eigenvalues of C, below 0 too: by how much, the negative ones tell, since all
    of those are scatter. Eigenvalues below the mean size of the negative ones, or below ``floor`` tr(C)/d, are raised to it;
    then rows and columns are scaled so that the variances, which scatter far less, are those of C again. Consistent where
    entries are missing at random whatever the values (MCAR) alone, and not of greatest likelihood.

    Args:
        rows: (n, *event), finite where observed; anything where hidden.
        observed: (n, *event) boolean, True where observed.
        floor: the least eigenvalue where no entry, or hardly any, is hidden, relative to the mean variance.
        prior: the Gaussian N(mu, P) towards which means and covariances are shrunk, as if every pair had been seen
            ``prior_rows`` = k times in it: C_ij = (sum_n ... + k P_ij) / (sum_n m_ni m_nj + k), and means likewise. Such as
            that of all rows, for the rows of one class. A column never observed has its mean and variance.
        prior_rows: k.

    Returns:
        The Gaussian, its factor lower triangular. A pair never observed together enters with covariance 0.

    Raises:
        ValueError: fewer than two rows, shapes that differ, values that are not finite where observed, a column never observed
            without a prior, a floor or prior_rows that are not positive, a prior of other events.

    Cost: O(n d^2 + d^3).

    Example:
        >>> gaussian = fit_gaussian_pairs(table, ~np.isnan(table))
    """
    if not (np.isfinite(floor) and floor > 0):
        raise ValueError(f"expected a finite floor > 0; got {floor}")
    if not (np.isfinite(prior_rows) and prior_rows > 0):
        raise ValueError(f"expected finite prior_rows > 0; got {prior_rows}")
    if prior is not None and tuple(prior.event_shape) != np.shape(rows)[1:]:
        raise ValueError(f"expected a prior of events {np.shape(rows)[1:]}; got {tuple(prior.event_shape)}")
    values, mask = flat_rows(rows, observed, columns=prior is None)
    seen = mask.astype(np.float32)
    sums, counts = values.sum(axis=0), seen.sum(axis=0, dtype=np.float64)
    mean = sums / counts if prior is None else (sums + prior_rows * prior.mean) / (counts + prior_rows)
    centred = np.where(mask, values - mean, 0.0).astype(np.float32)
    products, pairs = (centred.T @ centred).astype(np.float64), (seen.T @ seen).astype(np.float64)
    if prior is None:
        covariance = products / np.maximum(pairs, 1)
    else:
        covariance = (products + prior_rows * (prior.factor @ prior.factor.T)) / (pairs + prior_rows)
    spectrum, vectors = np.linalg.eigh(covariance)
    negative = spectrum[spectrum < 0]
    scatter = -float(negative.mean()) if negative.size else 0.0
    # data without any spread still needs a positive definite covariance
    least = floor * (float(np.trace(covariance)) / len(spectrum) or 1.0)
    raised = (vectors * np.maximum(spectrum, max(scatter, least))) @ vectors.T
    scale = np.sqrt(np.maximum(np.diagonal(covariance), least) / np.diagonal(raised))
    return Gaussian(np.shape(rows)[1:], mean, np.linalg.cholesky(scale[:, None] * raised * scale))
