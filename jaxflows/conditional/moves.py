"""Hamiltonian moves of completions: steps that leave p(y_hidden | y_observed) as it is, wherever they begin.

Where a flow bends much between the anchor and the bulk of the posterior, q is far from it, and the free latent that q draws may
have no completion at all. p(y) has no such trouble: every y with P_O y = y_observed has a density, and where the flow is
explicit both ways that density is one pass. With y = y_observed + P_H y and a spread S (`jaxflows.conditional.spreads`), S S^T
being about the covariance of the posterior, a move is a trajectory of

    U(y) = -log p(y),   H = U(y) + |r|^2 / 2,   dy/dt = S r,   dr/dt = -S^T dU/dy,

by leapfrogs from a fresh r ~ N(0, I), accepted by Metropolis (Duane et al. 1987; Neal 2011). The mass is the inverse of S S^T,
so that all directions are about alike. What was measured holds at every step: nothing is solved.

Moves after draws of weight w leave the weights proper (Gilks and Berzuini 2001, resample-move), but for the adaptation of their
steps, which the chains' own past decides and which vanishes (Andrieu and Thoms 2008): S is that of the Gauss-Newton Hessian at
the anchor. Without weights they begin at events of the flow made completions (`jaxflows.conditional.moved_events`), and S is
that of its second moments: where what is hidden may be of several kinds, chains from one anchor are long in leaving it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.conditional.pairs import paired_keys
from jaxflows.conditional.spreads import Spread
from jaxflows.flows import Flow
from jaxflows.observation import Observation

# of a trajectory; its step is drawn from half to all of what the adaptation says, lest it be a period of the target
LEAPFROGS = 8

# the chance of acceptance that the adaptation aims at: what costs least where dimensions are many is 0.65 (Beskos et al. 2013),
# and a little above it is safer
TARGET_ACCEPTANCE = 0.75

# times K^(-1/4), at which the adaptation begins; its gain at move n is (n + 1) to the other power
FIRST_STEP, GAIN_POWER = 1.5, -0.4


class Moved(NamedTuple):
    """Completions after their moves.

    Attributes:
        samples: (S, *event), or, of several a chain, (kept S, *event): the last states of all chains, then those before.
        acceptance: mean chance of the moves in the second half.
        evaluations: block evaluations spent, a gradient counted as two.
    """

    samples: jax.Array
    acceptance: jax.Array
    evaluations: jax.Array


class Place(NamedTuple):
    """Where a chain is.

    Attributes:
        y: (*event,), a completion.
        log_density: log p(y).
        pull: S^T times its gradient, (size,).
    """

    y: jax.Array
    log_density: jax.Array
    pull: jax.Array


def place(flow: Flow, params: Params, spread: Spread, y: jax.Array) -> Place:
    """The place of a chain at y."""
    log_density, slope = jax.value_and_grad(lambda t: flow.log_prob(params, t))(y)
    return Place(y, log_density, spread.pull(slope))


def trajectory(
    key: jax.Array, flow: Flow, params: Params, spread: Spread, here: Place, step: jax.Array, leapfrogs: int,
    sign: jax.Array | float = 1.0,
) -> tuple[Place, jax.Array]:  # fmt: skip
    """One move of one chain; a pure function. Returns where it is then, and the chance with which the move was accepted.

    Args:
        key: random key, used once.
        flow, params: the flow, not turned.
        spread: S.
        here: where the chain is.
        step: the largest step of the leapfrogs; from half of it to all of it is drawn.
        leapfrogs: gradients of log p.
        sign: 1 or -1, of the momentum.
    """
    k_length, k_momentum, k_accept = jax.random.split(key, 3)
    epsilon = step * jax.random.uniform(k_length, minval=0.5)
    r = sign * jax.random.normal(k_momentum, (spread.size,), here.y.dtype)

    def leapfrog(carry: tuple[Place, jax.Array], _: None) -> tuple[Any, None]:
        at, r = carry
        r = r + 0.5 * epsilon * at.pull
        at = place(flow, params, spread, at.y + epsilon * spread.push(r))
        return (at, r + 0.5 * epsilon * at.pull), None

    (there, end), _ = jax.lax.scan(leapfrog, (here, r), length=leapfrogs)
    log_ratio = there.log_density - here.log_density + 0.5 * (jnp.sum(r**2) - jnp.sum(end**2))
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    taken = jnp.log(jax.random.uniform(k_accept)) < log_ratio
    return jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, here), jnp.exp(jnp.minimum(log_ratio, 0.0))


def first_log_step(dimensions: jax.Array) -> jax.Array:
    """Where the adaptation of steps begins: the logarithm of what so many hidden dimensions allow."""
    return jnp.log(FIRST_STEP) - 0.25 * jnp.log(jnp.maximum(dimensions, 1))


def move(
    key: jax.Array, flow: Flow, params: Params, observation: Observation, spread: Spread, samples: jax.Array, moves: int,
    kept: int = 1, antithetic: bool = False,
) -> Moved:  # fmt: skip
    """Move every completion of ONE observation by ``moves`` trajectories; a pure function.

    Args:
        key: random key, used once.
        flow, params: the flow, not turned.
        observation: what is seen.
        spread: S, into what it hides.
        samples: (S, *event), completions: their observed parts are kept.
        moves: trajectories each. In the first half every completion adapts a step of its own, so that one that begins where log
            p is steep is not left there; then they share the median of those, adapted on by ever less.
        kept: states of each chain that are returned, the last and others before it at even distances in the second half: at
            most as many as that has moves.
        antithetic: the two of a pair (`jaxflows.conditional.pairs`) take the same step with opposite momenta, which brings them
            to opposite sides of the middle, wherever they were.

    Cost: ``LEAPFROGS`` gradients of log p a move and completion, and as many times S and S^T.
    """
    at = jax.vmap(lambda y: place(flow, params, spread, y))

    def one(carry: Any, xs: Any) -> tuple[Any, jax.Array]:
        (places, log_steps), (k, number) = carry, xs
        shared = 2 * number >= moves
        log_steps = jnp.where(shared, jnp.median(log_steps), log_steps)
        keys, signs = paired_keys(k, len(samples), samples.dtype, antithetic)
        places, chances = jax.vmap(
            lambda k, here, step, sign: trajectory(k, flow, params, spread, here, step, LEAPFROGS, sign)
        )(keys, places, jnp.exp(log_steps), signs)
        told = jnp.where(shared, jnp.mean(chances), chances)
        gain = (number + 1.0) ** GAIN_POWER
        return (places, log_steps + gain * (told - TARGET_ACCEPTANCE)), jnp.mean(chances)

    apart = max(1, (moves - moves // 2) // kept)

    def and_keep(carry: Any, xs: Any) -> tuple[Any, jax.Array]:
        carry, states = carry
        carry, rate = one(carry, xs)
        left = moves - 1 - xs[1]
        # one that is not kept is put beyond the end, where it is dropped
        slot = jnp.where(left % apart == 0, left // apart, kept)
        return (carry, states.at[slot].set(carry[0].y, mode="drop")), rate

    with jax.default_matmul_precision("highest"):
        first = first_log_step(jnp.sum(~observation.observed)).astype(samples.dtype)
        begin = at(samples), jnp.full(len(samples), first)
        carry = begin, jnp.broadcast_to(samples, (kept, *samples.shape))
        (_, states), rates = jax.lax.scan(and_keep, carry, (jax.random.split(key, moves), jnp.arange(moves)))
    gradients = len(samples) * (1 + moves * LEAPFROGS)
    spent = jnp.asarray(2 * flow.bijector.blocks * gradients, jnp.int32)
    return Moved(states.reshape(-1, *samples.shape[1:]), jnp.mean(rates[moves // 2 :]), spent)
