"""The most probable latent under any noise model, a flow's too (Whang, Lei and Dimakis 2021): a point estimate."""

from __future__ import annotations

import functools

import jax

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.latent import log_joint
from jaxflows.inverse.method import Method, Outcome, check_positive, serve_all
from jaxflows.inverse.noisy_measurements import NoisyMeasurement
from jaxflows.inverse.point_search import Objective, checked_search, search_points


@factory
def most_probable(
    *,
    steps: int = 400,
    restarts: int = 3,
    learning_rate: float = 0.1,
    likelihood_weight: float = 1.0,
    start_scale: float = 0.2,
    sigma: float = 0.05,
) -> Method:
    """The most probable latent, the best of several restarts; a point, not a sample.

        argmax_z  w log p(b | A(f(z))) + log N(z; 0, I)

    With `jaxflows.inverse.noise.of_flow` it is the flow-based noise model, whose authors weigh the likelihood by w = 0.4.

    Args:
        steps, learning_rate: of Adam.
        restarts: starts, each z ~ N(0, start_scale^2 I).
        likelihood_weight: w.
        start_scale: of the starts.
        sigma: smoothing of a measurement without noise.

    Cost: 2 ``steps`` decodes a restart, gradients counted.
    """
    search = checked_search(steps, restarts, learning_rate, start_scale)
    check_positive(likelihood_weight=likelihood_weight, sigma=sigma)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        objective = _objective(likelihood_weight, sigma)
        return search_points(key, objective, search, flow, params, measurement, num_samples)

    return Method("map", serve_all, run)


@functools.cache
def _objective(weight: float, sigma: float) -> Objective:
    def loss(flow: Flow, params: Params, measurement: NoisyMeasurement, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, (_, evaluations) = log_joint(flow, params, measurement, sigma, z, 1.0 / weight)
        return -value, evaluations

    return loss
