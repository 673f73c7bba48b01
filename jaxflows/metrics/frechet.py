"""The Frechet distance of two Gaussians, which compares the features of two sets of images (Heusel et al. 2017).

    d^2 = |mu_1 - mu_2|^2 + Tr( S_1 + S_2 - 2 (S_1 S_2)^{1/2} )

The trace of the root is that of the symmetric (S_1^{1/2} S_2 S_1^{1/2})^{1/2}, which has the same eigenvalues: no complex root,
and no ridge for singular covariances. NumPy in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean (k,) and covariance (k, k), of n - 1 degrees of freedom, of a set of features."""

    mean: np.ndarray
    covariance: np.ndarray


def moments_of(features: np.ndarray) -> Moments:
    """The moments of features (n, k), n >= 2, finite."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features (n, k) of at least two images; got shape {features.shape}")
    if not np.all(np.isfinite(features)):
        raise ValueError(f"expected finite features; got others, first in row {int(np.argmin(np.isfinite(features).all(1)))}")
    return Moments(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(one: Moments, other: Moments) -> float:
    """d^2 as above; 0 when the moments are equal. Cost: two eigendecompositions of k x k."""
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"expected moments of as many features; got {one.mean.shape} and {other.mean.shape}")
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ other.covariance @ root)
    shift = np.sum((one.mean - other.mean) ** 2)
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return float(shift + traces - 2.0 * np.sum(np.sqrt(np.maximum(inner, 0.0))))
