"""Completions of all training rows that move along with a flow: where they begin, and a move of those of a mini-batch.

What `jaxflows.training.fit_by_moves` keeps from step to step, and how it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.moves import TARGET_ACCEPTANCE, place, trajectory
from jaxflows.conditional.spreads import Moments, Principal
from jaxflows.flows import Flow
from jaxflows.flows.entrywise import behind_entrywise
from jaxflows.precision import full_precision
from jaxflows.sharding import by_rows, replicated_inside
from jaxflows.training.gaussian_completions import Bounds, begun
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


def moved_batch(
    flow: Flow,
    moments: Moments | Principal,
    bounds: Bounds,
    moves: int,
    noise: Noise | None,
    mesh: Mesh | None,
    parts: int,
) -> Callable[[jax.Array, Params, Chains, Turn, jax.Array | None], tuple[Chains, jax.Array, jax.Array]]:
    """``(key, params, chains, turn, now) -> (chains, completions of the turn (b, *event), mean acceptance)``.

    ``now`` says whether they move; None for always. Where they do not, what they are stays, or begins, and the acceptance is
    NaN. ``moments`` are of what is moved: of a flow that begins with a map of each entry, of what is behind that.
    """
    behind = behind_entrywise(flow)
    inner = flow if behind is None else behind.flow

    def start_of(shared: Any, key: jax.Array, y: jax.Array, observed: jax.Array, before: jax.Array, begins: jax.Array) -> Any:
        # what was observed may have new noise
        params, moments = shared
        u = jnp.where(observed, y, before)
        u = u if behind is None else behind.images(params, u)
        spread, fresh = begun(key, moments, bounds, u, observed)
        return spread, jnp.where(observed | ~begins, u, fresh)

    def ended_at(params: Params, y: jax.Array, observed: jax.Array, u: jax.Array) -> jax.Array:
        return jnp.where(observed, y, u if behind is None else behind.events(params, u))

    def start_row(shared: Any, key: jax.Array, y: jax.Array, observed: jax.Array, *own: jax.Array) -> jax.Array:
        return ended_at(shared[0], y, observed, start_of(shared, jax.random.split(key)[0], y, observed, *own)[1])

    def move_row(shared: Any, key: jax.Array, y: jax.Array, observed: jax.Array, *own: jax.Array) -> Any:
        params, moments, step = shared
        inner_params = params if behind is None else behind.parts(params)[1]
        k_begin, k_move = jax.random.split(key)
        spread, begin = start_of((params, moments), k_begin, y, observed, *own)

        def one(here: Any, k: jax.Array) -> Any:
            return trajectory(k, inner, inner_params, spread, here, step, LEAPFROGS)

        ended, chances = jax.lax.scan(one, place(inner, inner_params, spread, begin), jax.random.split(k_move, moves))
        return ended_at(params, y, observed, ended.y), jnp.mean(chances)

    def all_of(row: Callable[..., Any]) -> Callable[..., Any]:
        return by_rows(lambda shared, some: jax.vmap(lambda *own: row(shared, *own))(*some), mesh, parts)

    @full_precision
    def turn_of(
        key: jax.Array, params: Params, chains: Chains, turn: Turn, now: jax.Array | None
    ) -> tuple[Chains, jax.Array, jax.Array]:
        k_noise, k_rows = jax.random.split(key)
        batch, numbers = turn.batch, turn.numbers
        rows = batch.rows if noise is None else noise(k_noise, batch.rows)
        before, begins = chains.y[numbers], ~chains.begun[numbers]
        own = jax.random.split(k_rows, len(numbers)), rows, batch.observed, before, begins
        still = jnp.full(len(numbers), jnp.nan, rows.dtype)

        def moved() -> tuple[jax.Array, jax.Array]:
            return all_of(move_row)((params, moments, jnp.exp(chains.log_step)), own)

        def started() -> tuple[jax.Array, jax.Array]:
            return all_of(start_row)((params, moments), own), still

        def as_they_are() -> tuple[jax.Array, jax.Array]:
            return jnp.where(batch.observed, rows, before), still

        if now is None:
            completions, chances = moved()
        else:
            which = jnp.where(now, 2, jnp.any(begins).astype(int))
            completions, chances = jax.lax.switch(which, (as_they_are, started, moved))
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
