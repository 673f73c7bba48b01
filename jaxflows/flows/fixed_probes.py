"""A flow whose exact log-determinants are replaced by estimates from probes that never change."""

from __future__ import annotations

import jax

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow
from jaxflows.log_det.estimators import Estimator


@factory
def estimated_density(flow: Flow, *, estimator: Estimator, seed: int = 0) -> Flow:
    """The flow with log|det dg/dy| taken as estimated by the same probes at every event.

    For events whose Jacobians are too large to factorise, such as colour images. What is made of log-densities, weights,
    acceptances, bounds, is then of a density p' that is a fixed function of the event,

        log p'(y) = log N(g(y); 0, I) + L(y),   L(y) = sum_{k<=n} (-1)^{k+1}/k mean_v v^T J(y)^k v  a block,

    over fixed probes v: Markov chains on it are exact for p', where probes drawn anew at every step would bias them. L differs
    from the log-determinant by the error of the probes and of the truncation; between events that are near one another most
    of the former cancels. Encodings, decodings, gradients by `Flow.estimate_log_prob` and the description in a model file
    stay as they are.

    Args:
        flow: any.
        estimator: of `jaxflows.log_det.estimators`.
        seed: of the probes.

    Cost: of a log-density, the estimator's.
    """
    bijector = flow.bijector

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        v, log_det = bijector.estimate(jax.random.key(seed), estimator, params, u)
        return v, log_det.value

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, _ = bijector.invert(params, v)
        return u, -forward(params, u)[1]

    return flow._replace(bijector=bijector._replace(forward=forward, inverse=inverse))
