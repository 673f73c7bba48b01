"""Test log-likelihoods in nats and bits per dimension, each with its standard error over rows."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import LogDet, Params
from jaxflows.flows import Flow
from jaxflows.log_det.estimators import Estimator


class LogLikelihood(NamedTuple):
    """Mean log-density of test rows, per dimension.

    Attributes:
        nats: mean of log p(y) / d.
        std_error: standard error of ``nats`` over the rows.
        rows: how many rows.
        truncation_bound: certified bound on the bias of ``nats``, where it was estimated by a truncated series; else 0.
    """

    nats: float
    std_error: float
    rows: int
    truncation_bound: float = 0.0

    def bits(self, levels: float = 1.0) -> float:
        """Bits per dimension, -nats / ln 2 + log2(levels), a unit of data being cut into ``levels`` steps."""
        return -self.nats / math.log(2.0) + math.log2(levels)


def summarise(log_probs: Any, size: int) -> LogLikelihood:
    """`LogLikelihood` of log p(y), shape (n,) with n >= 2, in nats of whole events of ``size`` entries."""
    per_dimension = np.asarray(log_probs, np.float64) / size
    if per_dimension.ndim != 1 or len(per_dimension) < 2:
        raise ValueError(f"expected log-densities of shape (n,), n >= 2; got {per_dimension.shape}")
    error = per_dimension.std(ddof=1) / math.sqrt(len(per_dimension))
    return LogLikelihood(float(per_dimension.mean()), float(error), len(per_dimension))


def flow_log_likelihood(flow: Flow, params: Params, rows: jax.Array, *, batch_size: int = 8) -> LogLikelihood:
    """Exact log-density of rows (n, *event_shape). Cost: d JVPs and an O(d^3) factorisation a block a row."""
    return summarise(_log_probs(flow, batch_size, params, jnp.asarray(rows)), flow.size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_probs(flow: Flow, batch_size: int, params: Params, rows: jax.Array) -> jax.Array:
    return jax.lax.map(functools.partial(flow.log_prob, params), rows, batch_size=batch_size)


def estimated_log_likelihood(
    key: jax.Array, flow: Flow, params: Params, rows: jax.Array, estimator: Estimator, *, batch_size: int = 32
) -> LogLikelihood:
    """Log-density of rows (n, *event_shape), log-determinants estimated: for events too large to factorise Jacobians of.

    Every row has probes of its own, so that their noise is in the standard error over rows.

    Args:
        key: of the probes.
        flow, params: the flow.
        rows: (n, *event_shape), n >= 2.
        estimator: of `jaxflows.log_det.estimators`.
        batch_size: rows at once.

    Cost: the estimator's, a block a row.
    """
    found = _estimates(flow, estimator, batch_size, params, jnp.asarray(rows), jax.random.split(key, len(rows)))
    bound = float(jnp.max(found.truncation_bound)) / flow.size
    return summarise(found.value, flow.size)._replace(truncation_bound=bound)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _estimates(flow: Flow, estimator: Estimator, batch_size: int, params: Params, rows: jax.Array, keys: jax.Array) -> LogDet:
    def one(row: tuple[jax.Array, jax.Array]) -> LogDet:
        return flow.estimate_log_prob(row[1], params, row[0], estimator)

    return jax.lax.map(one, (rows, keys), batch_size=batch_size)


def gaussian_log_likelihood(mean: np.ndarray, covariance: np.ndarray, rows: Any) -> LogLikelihood:
    """Log-density of rows under one full Gaussian, the baseline of every table; float64.

    Args:
        mean: (d,).
        covariance: (d, d), positive definite.
        rows: (n, *event), flattened here.
    """
    centred = np.asarray(rows, np.float64).reshape(len(rows), -1) - mean
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, centred.T)
    log_det = 2.0 * np.sum(np.log(np.diag(factor)))
    return summarise(-0.5 * (np.sum(white**2, axis=0) + log_det + len(mean) * math.log(2 * math.pi)), len(mean))
