"""Gaussian noise on a linear measurement is a noiseless linear measurement of a larger flow (docs/inverse.md).

With e ~ N(0, I) standard normal and independent of y,

    b = A y + sigma e   is   [A, diag(sigma)] (y, e) = b,

a linear observation of full row rank of the event (y, e), whose flow is the old one beside the identity on e: its base is
standard normal still. Conditioning that flow exactly and forgetting e draws from p(y | b), with no smoothing and no annealing.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.beside import extend
from jaxflows.flows import Flow, flow_of
from jaxflows.observation import LinearMeasurement, linear


@functools.cache
def extended_flow(flow: Flow, count: int) -> Flow:
    """The flow of (y, e) on flat events of size d + count; its parameters are those of ``flow``."""
    return flow_of((flow.size + count,), extend(flow.bijector, flow.event_shape, count))


def extended_measurement(operator: LinearMeasurement, sigma: jax.Array) -> LinearMeasurement:
    """[A, diag(sigma)] of the event (y, e).

    Args:
        operator: A.
        sigma: () or (m,).

    Cost: a QR factorisation of a (d + m) x (d + m) basis, once.
    """
    matrix = operator_matrix(operator)
    widths = np.broadcast_to(np.asarray(sigma, float), matrix.shape[:1])
    return linear(np.concatenate([matrix, np.diag(widths)], axis=1))


def operator_matrix(operator: LinearMeasurement) -> np.ndarray:
    """A as a matrix (m, d) on the flattened event."""
    shape = operator.observation.observed.shape
    size = operator.observation.observed.size
    return np.asarray(jax.vmap(operator.measure)(jnp.eye(size).reshape(size, *shape))).T


def log_volume(operator: LinearMeasurement) -> float:
    """1/2 log det(A A^T): log p(b) is log p of the orthonormal coordinates of P_O y less this."""
    matrix = operator_matrix(operator).astype(float)
    return float(0.5 * np.linalg.slogdet(matrix @ matrix.T)[1])
