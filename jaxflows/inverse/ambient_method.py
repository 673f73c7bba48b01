"""Ambient variational inference: a flow posterior in the space of events, the baseline the pre-generator is compared with."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.flow_posterior import FlowPosterior
from jaxflows.inverse.method import Method, has_logit
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, log_likelihood
from jaxflows.inverse.variational import Settings, Target, variational_method
from jaxflows.log_det.estimators import power_series


@factory
def ambient(
    *,
    family: Flow | None = None,
    steps: int = 1000,
    num_draws: int = 64,
    learning_rate: float = 1e-3,
    sigma: float = 0.05,
    marginal_draws: int = 0,
) -> Method:
    """Fit a flow of events, which knows nothing of the frozen one, to the posterior.

        maximise  E_q[ log p(y) + log p(b | A(y)) - log q(y) ]

    log p(y) is estimated by a power series in the fit, exact for layers that are, and exact in the weights at the end.

    Args:
        family: a flow over events; affine couplings when None.
        steps, num_draws, learning_rate, sigma, marginal_draws: as `jaxflows.inverse.pregenerator`.

    Cost: 2 ``steps`` x ``num_draws`` passes of the flow and of q, gradients counted, and the log-determinants.
    """
    settings = Settings(steps, num_draws, learning_rate, sigma)
    return variational_method(
        "ambient", _refuse, lambda flow: flow.event_shape, _target, _posterior, family, settings, marginal_draws
    )


def _posterior(flow: Flow, family: Flow, params: Params, theta: Params) -> FlowPosterior:
    del flow, params
    return FlowPosterior(family, theta)


def _refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    del measurement
    if has_logit(flow):
        return "expected a flow whose events may be any numbers; got one with a logit (the pre-generator works in its latent)"
    return None


@functools.cache
def _target(flow: Flow, sigma: float) -> Target:
    estimator, blocks = power_series(terms=8), flow.bijector.blocks

    def joint(
        measurement: NoisyMeasurement, y: jax.Array, log_prob: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return log_prob + log_likelihood(measurement, sigma, y), (y, jnp.asarray(blocks, jnp.int32))

    def surrogate(key: jax.Array, params: Params, measurement: NoisyMeasurement, y: jax.Array) -> Any:
        return joint(measurement, y, flow.estimate_log_prob(key, params, y, estimator).value)

    def exact(params: Params, measurement: NoisyMeasurement, y: jax.Array) -> Any:
        return joint(measurement, y, flow.log_prob(params, y))

    return Target(surrogate, exact)
