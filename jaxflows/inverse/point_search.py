"""Searches for one latent: what CSGM and the MAP estimate share. They return POINTS, one a restart, and no posterior."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.inverse.latent import decode_all
from jaxflows.inverse.method import Outcome, check_positive, unweighted
from jaxflows.inverse.noisy_measurements import NoisyMeasurement

Objective = Callable[[Flow, Params, NoisyMeasurement, jax.Array], tuple[jax.Array, jax.Array]]
"""``(flow, params, measurement, z) -> (loss, block evaluations)``."""


class Search(NamedTuple):
    """Options of a search by Adam; static.

    Attributes:
        steps: gradient steps.
        restarts: starts, each z ~ N(0, start_scale^2 I).
        learning_rate: of Adam.
        start_scale: 0 for the latent's centre.
    """

    steps: int
    restarts: int
    learning_rate: float
    start_scale: float


def checked_search(steps: int, restarts: int, learning_rate: float, start_scale: float) -> Search:
    """The options; raises ValueError for one out of range."""
    check_positive(steps=steps, restarts=restarts, learning_rate=learning_rate)
    if start_scale < 0:
        raise ValueError(f"expected start_scale >= 0; got {start_scale}")
    return Search(steps, restarts, learning_rate, start_scale)


def search_points(
    key: jax.Array, objective: Objective, search: Search, flow: Flow, params: Params, measurement: NoisyMeasurement,
    num_samples: int,
) -> Outcome:  # fmt: skip
    """The best points of all restarts, least loss first: as many as asked for, or as there are restarts."""
    latents, losses, spent = _descend(objective, search, flow, key, params, measurement)
    best = latents[jnp.argsort(losses)[:num_samples]]
    events, evaluations = decode_all(flow, params, best)
    return unweighted(measurement, events, spent + evaluations, point_note(len(best), search.restarts))


def point_note(count: int, restarts: int) -> str:
    """What every point estimator says of its samples."""
    return f"{count} of {restarts} restarts, least loss first: points, not samples of a posterior"


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(
    objective: Objective, search: Search, flow: Flow, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[jax.Array, jax.Array, jax.Array]:
    optimizer = optax.adam(search.learning_rate)
    loss = functools.partial(objective, flow, params, measurement)

    def one(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            z, memory, spent = carry
            gradient, evaluations = jax.grad(loss, has_aux=True)(z)
            updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(z, updates), memory, spent + 2 * evaluations), None

        start = (z, optimizer.init(z), jnp.zeros((), jnp.int32))
        z, _, spent = jax.lax.scan(step, start, length=search.steps)[0]
        value, evaluations = loss(z)
        return z, jnp.where(jnp.isnan(value), jnp.inf, value), spent + evaluations

    starts = search.start_scale * jax.random.normal(key, (search.restarts, *flow.latent_shape))
    latents, losses, spent = jax.vmap(one)(starts)
    return latents, losses, jnp.sum(spent)
