"""A flow: a bijector from data to latent, and a standard normal base."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo
from jaxflows.precision import full_precision


def standard_normal_log_prob(x: jax.Array) -> jax.Array:
    """log N(x; 0, I) = -|x|^2/2 - d/2 log(2 pi) of one event of any shape."""
    return -0.5 * jnp.sum(x**2) - 0.5 * x.size * math.log(2 * math.pi)


class Flow(NamedTuple):
    """A density p(y) = N(g(y); 0, I) |det dg/dy| on events y of shape ``event_shape``, g = ``bijector``.

    Static: it holds functions and no arrays; parameters are arguments. All methods take ONE event; batch by `jax.vmap`.
    """

    event_shape: Shape
    bijector: Bijector

    @property
    def latent_shape(self) -> Shape:
        """Shape of x = g(y)."""
        return self.bijector.output_shape(self.event_shape)

    @property
    def size(self) -> int:
        """d, the number of entries of an event."""
        return math.prod(self.event_shape)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, inside the invertibility constraint."""
        return self.bijector.init(key, self.event_shape)

    @full_precision
    def encode(self, params: Params, y: jax.Array) -> jax.Array:
        """x = g(y), data to latent. Cost: ``bijector.blocks`` block evaluations."""
        return self.bijector.transform(params, y)

    @full_precision
    def decode(self, params: Params, x: jax.Array) -> tuple[jax.Array, SolveInfo]:
        """y = g^{-1}(x), latent to data, with the inversion's report. Differentiable in both arguments."""
        return self.bijector.invert(params, x)

    @full_precision
    def log_prob(self, params: Params, y: jax.Array) -> jax.Array:
        """log p(y) in nats, exact. Cost: d JVPs and an O(d^3) factorisation a residual block."""
        x, log_det = self.bijector.forward(params, y)
        return standard_normal_log_prob(x) + log_det

    def estimate_log_prob(self, key: jax.Array, params: Params, y: jax.Array, estimator: Any) -> LogDet:
        """log p(y) in nats with its error bar, the log-determinants by an estimator of `jaxflows.log_det`."""
        x, log_det = self.bijector.estimate(key, estimator, params, y)
        return log_det._replace(value=standard_normal_log_prob(x) + log_det.value)

    def sample(self, key: jax.Array, params: Params, num_samples: int) -> jax.Array:
        """``num_samples`` events, shape (num_samples, *event_shape)."""
        x = jax.random.normal(key, (num_samples, *self.latent_shape))
        return jax.vmap(lambda t: self.decode(params, t)[0])(x)


def check_event(flow: Flow, y: Any, name: str) -> None:
    """Raise ValueError when one event has not the flow's shape."""
    if tuple(jnp.shape(y)) != flow.event_shape:
        raise ValueError(f"expected {name} of shape {flow.event_shape}; got {tuple(jnp.shape(y))}")


def flow_of(event_shape: Shape, bijector: Bijector) -> Flow:
    """A flow of any bijector; raises ValueError when the bijector cannot take the event shape."""
    event_shape = tuple(int(side) for side in event_shape)
    bijector.output_shape(event_shape)
    return Flow(event_shape, bijector)
