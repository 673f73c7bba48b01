"""The problem that the tests of `infer` share: an affine flow of three entries under two measurements."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.known_flows import gaussian_of, matrix_flow
from jaxflows import inverse, metrics, observe
from jaxflows.inverse import noise
from jaxflows.measurements import entries

KEY = jax.random.key(0)
MATRIX = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]])
VALUES = np.array([0.7, -0.4])
SIGMA = np.array([0.5, 0.3])


def problem():
    return matrix_flow((3,), seed=0)


def fitted_gaussian():
    mean, covariance = gaussian_of(*problem())
    return metrics.Gaussian((3,), mean, np.linalg.cholesky(covariance))


def reading(name):
    if name == "plmcmc":
        return inverse.noisy_measurement(entries(np.array([True, False, False])), VALUES[:1])
    return inverse.noisy_measurement(observe.linear(MATRIX), VALUES, noise=noise.gaussian(SIGMA))
