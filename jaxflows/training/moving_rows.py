"""Completions of all training rows that move along with a flow: where they begin, and a move of those of a mini-batch.

What `jaxflows.training.fit_by_moves` keeps from step to step, and how it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.moves import TARGET_ACCEPTANCE, place, trajectory
from jaxflows.conditional.spreads import (
    Moments,
    Principal,
    conditional_spread,
    gaussian_completion,
    gaussian_event,
    moments_of,
    principal_of,
)
from jaxflows.flows import Flow
from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.observation import mask
from jaxflows.precision import full_precision
from jaxflows.sharding import by_rows, replicated_inside
from jaxflows.training.joint_loss import IncompleteBatch
from jaxflows.training.step import Noise

# gradients of log p a move; with the step that the acceptance allows a trajectory is about a quarter of a period
LEAPFROGS = 3

# of the adaptation of the moves' step; it does not vanish, for the flow goes on changing
GAIN = 0.05


class Chains(NamedTuple):
    """The completions of all rows (n, *event), which of them have begun (n,), and the logarithm of the moves' step."""

    y: jax.Array
    begun: jax.Array
    log_step: jax.Array


class Turn(NamedTuple):
    """A mini-batch: the numbers of its rows, and the rows."""

    numbers: jax.Array
    batch: IncompleteBatch


def mass_moments(gaussian: Gaussian, rank: int | None, dtype: Any) -> Moments | Principal:
    """Of a Gaussian, or of its leading ``rank`` directions."""
    mean, covariance = gaussian.mean.reshape(gaussian.event_shape), gaussian.factor @ gaussian.factor.T
    if rank is not None:
        return principal_of(mean, covariance, rank, dtype)
    return moments_of(jnp.asarray(mean, dtype), jnp.asarray(covariance, dtype))


def _begun(
    key: jax.Array, moments: Moments | Principal, bounds: tuple[int, int], row: jax.Array, observed: jax.Array
) -> tuple[Any, jax.Array]:
    """The spread of one row's hidden entries, and a first completion: a draw of the Gaussian given the row."""
    observation = mask(observed)
    spread = conditional_spread(moments, observation, *bounds)
    event = gaussian_event(key, moments)
    return spread, gaussian_completion(moments, observation, spread, observation.observed_part(row), event)


def first_completions(
    key: jax.Array, moments: Moments | Principal, bounds: tuple[int, int], batch: IncompleteBatch, noise: Noise | None
) -> np.ndarray:
    """(b, *event): draws of the Gaussian given each row."""
    k_noise, k_draw = jax.random.split(key)
    rows = batch.rows if noise is None else noise(k_noise, batch.rows)

    @jax.jit
    @full_precision
    def all_of(moments: Any, keys: jax.Array, rows: jax.Array, observed: jax.Array) -> jax.Array:
        one = lambda some: _begun(some[0], moments, bounds, *some[1:])[1]  # noqa: E731
        return jax.lax.map(one, (keys, rows, observed), batch_size=64)

    return np.asarray(all_of(moments, jax.random.split(k_draw, len(rows)), rows, batch.observed))


def moved_batch(
    flow: Flow,
    moments: Moments | Principal,
    bounds: tuple[int, int],
    moves: int,
    noise: Noise | None,
    mesh: Mesh | None,
    parts: int,
) -> Callable[[jax.Array, Params, Chains, Turn, jax.Array | None], tuple[Chains, jax.Array, jax.Array]]:
    """``(key, params, chains, turn, now) -> (chains, completions of the turn (b, *event), mean acceptance)``.

    ``now`` says whether they move; None for always. Where they do not, what they are stays, and the acceptance is NaN.
    """

    def row(shared: Any, key: jax.Array, y: jax.Array, observed: jax.Array, before: jax.Array, begun: jax.Array) -> Any:
        params, moments, step = shared
        k_begin, k_move = jax.random.split(key)
        spread, fresh = _begun(k_begin, moments, bounds, y, observed)
        # what was observed may have new noise
        begin = jnp.where(observed, y, jnp.where(begun, before, fresh))

        def one(here: Any, k: jax.Array) -> Any:
            return trajectory(k, flow, params, spread, here, step, LEAPFROGS)

        ended, chances = jax.lax.scan(one, place(flow, params, spread, begin), jax.random.split(k_move, moves))
        return jnp.where(observed, y, ended.y), jnp.mean(chances)

    every = by_rows(lambda shared, some: jax.vmap(lambda *own: row(shared, *own))(*some), mesh, parts)

    @full_precision
    def turn_of(
        key: jax.Array, params: Params, chains: Chains, turn: Turn, now: jax.Array | None
    ) -> tuple[Chains, jax.Array, jax.Array]:
        k_noise, k_rows = jax.random.split(key)
        batch, numbers = turn.batch, turn.numbers
        rows = batch.rows if noise is None else noise(k_noise, batch.rows)
        keys = jax.random.split(k_rows, len(numbers))
        before = chains.y[numbers]
        own = keys, rows, batch.observed, before, chains.begun[numbers]

        def moved() -> tuple[jax.Array, jax.Array]:
            return every((params, moments, jnp.exp(chains.log_step)), own)

        def as_they_are() -> tuple[jax.Array, jax.Array]:
            return jnp.where(batch.observed, rows, before), jnp.full(len(numbers), jnp.nan, rows.dtype)

        completions, chances = moved() if now is None else jax.lax.cond(now, moved, as_they_are)
        # every device keeps all completions
        whole = replicated_inside(completions, mesh)
        acceptance = jnp.mean(chances)
        told = GAIN * (acceptance - TARGET_ACCEPTANCE)
        after = Chains(
            chains.y.at[numbers].set(whole), chains.begun.at[numbers].set(True),
            chains.log_step + (told if now is None else jnp.where(now, told, 0.0)),
        )  # fmt: skip
        return after, completions, acceptance

    return turn_of
