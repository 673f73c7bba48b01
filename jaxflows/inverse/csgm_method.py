"""Compressed sensing with generative models (Bora, Jalal, Price and Dimakis 2017): a penalised point estimate."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.method import Method, Outcome, serve_all
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, misfit
from jaxflows.inverse.point_search import Objective, checked_search, search_points


@factory
def csgm(
    *,
    steps: int = 1000,
    restarts: int = 3,
    learning_rate: float = 0.02,
    penalty: float = 0.1,
    start_scale: float = 0.1,
) -> Method:
    """The best of several restarts of a penalised least-squares search; a point, not a sample.

        argmin_z  mean (A(f(z)) - b)^2 + penalty |z|^2

    The data term is a MEAN over the measurements, so the penalty weighs more the more of them there are; the noise model
    says how far A(f(z)) is from b, and no more.

    Args:
        steps, learning_rate: of Adam; the defaults are those of the supplement, C.4.
        restarts: starts, each z ~ N(0, start_scale^2 I).
        penalty: lambda; 0 for none.
        start_scale: of the starts.

    Cost: 2 ``steps`` decodes a restart, gradients counted.
    """
    search = checked_search(steps, restarts, learning_rate, start_scale)
    if penalty < 0:
        raise ValueError(f"expected penalty >= 0; got {penalty}")

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        return search_points(key, _objective(penalty), search, flow, params, measurement, num_samples)

    return Method("csgm", serve_all, run)


@functools.cache
def _objective(penalty: float) -> Objective:
    def loss(flow: Flow, params: Params, measurement: NoisyMeasurement, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, info = flow.decode(params, z)
        return misfit(measurement, y) ** 2 + penalty * jnp.sum(z**2), info.evaluations

    return loss
