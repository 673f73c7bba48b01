"""An affine flow that can be any Gaussian, Gaussian rows with holes, and what is known of both."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.known_flows import gaussian_of
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.conv1x1 import conv1x1
from jaxflows.data import mcar
from jaxflows.flows import flow_of
from jaxflows.metrics import Gaussian, fit_gaussian, observed_log_likelihood

SIZE = 3
AFFINE = flow_of((SIZE,), chain(actnorm(over="element"), conv1x1()))
fresh = jax.jit(AFFINE.init)
MIXING = np.array([[1.0, 0.8, 0.3], [0.0, 0.6, -0.5], [0.0, 0.0, 0.8]])


def gaussian_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian rows and masks that hide 30 % of them completely at random."""
    rows = np.random.default_rng(0).standard_normal((count, SIZE)) @ MIXING + [1.0, -2.0, 0.5]
    return rows.astype(np.float32), mcar(count, (SIZE,), 0.3, seed=1)


def median_filled(rows: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(rows), np.nanmedian(rows, axis=0), rows)


def affine_start(rows: np.ndarray) -> list:
    """The affine flow standardising median-filled rows, mixing nothing."""
    first, _ = jax.jit(AFFINE.bijector.fit_to_data)(fresh(jax.random.key(0)), jnp.asarray(median_filled(rows)))
    return (first, {"factors": jnp.zeros((SIZE, SIZE)), "order": jnp.arange(float(SIZE))})


def log_likelihoods(params, rows: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """log p(y_observed) of the affine flow, in nats, of every row, exact."""
    mean, covariance = gaussian_of(AFFINE, params)
    return observed_log_likelihood(Gaussian((SIZE,), mean, np.linalg.cholesky(covariance)), rows, observed)


def log_likelihood(params, rows: np.ndarray, observed: np.ndarray) -> float:
    """The mean of `log_likelihoods`."""
    return log_likelihoods(params, rows, observed).mean()


def median_likelihood(rows: np.ndarray, observed: np.ndarray) -> float:
    """What the Gaussian of the median-filled rows reaches."""
    return observed_log_likelihood(fit_gaussian(median_filled(rows)), rows, observed).mean()
