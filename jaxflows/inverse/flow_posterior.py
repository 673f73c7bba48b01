"""What a variational method has fitted: a posterior q(y) that is itself a flow of events."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax

from jaxflows.bijectors.base import Params
from jaxflows.bijectors.chain import chain
from jaxflows.flows import Flow, check_event, flow_of


class FlowPosterior(NamedTuple):
    """q(y), fitted to p(y | b).

    Attributes:
        flow: a flow of events, static.
        params: its parameters.

    Example:
        >>> found = jaxflows.infer(key, flow, params, reading, method="pregenerator")
        >>> more = found.posterior.sample(jax.random.key(1), 1000)
    """

    flow: Flow
    params: Params

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """(num_samples, *event) draws, independent. Cost: a decode each."""
        return _sample(self.flow, num_samples, key, self.params)

    def log_prob(self, y: jax.Array) -> jax.Array:
        """log q of one event (*event,) in nats, exact; batch by `jax.vmap`."""
        check_event(self.flow, y, "y")
        return _log_prob(self.flow, self.params, y)


_sample = jax.jit(lambda flow, count, key, params: flow.sample(key, params, count), static_argnums=(0, 1))
_log_prob = jax.jit(lambda flow, params, y: flow.log_prob(params, y), static_argnums=0)


@functools.cache
def composed(flow: Flow, family: Flow) -> Flow:
    """The flow of y = f(h^{-1}(eps)): ``family`` on the latent of ``flow``; its parameters are the pair of theirs."""
    return flow_of(flow.event_shape, chain(flow.bijector, family.bijector))
