"""Hamiltonian moves of completions: steps that leave p(y_hidden | y_observed) as it is, wherever they begin.

Where a flow bends much between the anchor and the bulk of the posterior, q is far from it, and the free latent that q draws may
have no completion at all. p(y) has no such trouble: every y with P_O y = y_observed has a density, and where the flow is
explicit both ways that density is one pass. With y = y_observed + P_H y and a spread S (K, K), S S^T being about the covariance
of the posterior, a move is a trajectory of

    U(y) = -log p(y),   H = U(y) + |r|^2 / 2,   dy_hidden/dt = S r,   dr/dt = -S^T dU/dy_hidden,

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
from jaxflows.conditional.hidden import Hidden
from jaxflows.flows import Flow

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
        samples: (S, *event).
        acceptance: mean chance of the moves in the second half.
        evaluations: block evaluations spent, a gradient counted as two.
    """

    samples: jax.Array
    acceptance: jax.Array
    evaluations: jax.Array


class _Place(NamedTuple):
    """Where a chain is: hidden coordinates (K,), log p there and S^T times its gradient, (K,)."""

    c: jax.Array
    log_density: jax.Array
    push: jax.Array


def move(key: jax.Array, flow: Flow, params: Params, where: Hidden, spread: jax.Array, samples: jax.Array, moves: int) -> Moved:
    """Move every completion of ONE observation by ``moves`` trajectories; a pure function.

    Args:
        key: random key, used once.
        flow, params: the flow, not turned.
        where: the hidden subspace.
        spread: S, (K, K).
        samples: (S, *event), completions: their observed parts are kept.
        moves: trajectories each. In the first half every completion adapts a step of its own, so that one that begins where log
            p is steep is not left there; then they share the median of those, adapted on by ever less.

    Cost: ``LEAPFROGS`` + 1 gradients of log p a move and completion, and O(K^2) arithmetic for each.
    """
    observed = jax.vmap(where.observation.observed_part)(samples)
    dimensions = jnp.maximum(jnp.sum(where.used), 1).astype(samples.dtype)
    spread = jnp.where(where.used[:, None] & where.used[None, :], spread, 0.0)

    def place(c: jax.Array, seen: jax.Array) -> _Place:
        log_density, slope = jax.value_and_grad(lambda y: flow.log_prob(params, y))(seen + where.expand(c))
        return _Place(c, log_density, spread.T @ where.compress(slope))

    def trajectory(key: jax.Array, here: _Place, seen: jax.Array, step: jax.Array) -> tuple[_Place, jax.Array]:
        k_length, k_momentum, k_accept = jax.random.split(key, 3)
        epsilon = step * jax.random.uniform(k_length, minval=0.5)
        r = jax.random.normal(k_momentum, here.c.shape, here.c.dtype)
        r = jnp.where(where.used, r, 0.0)

        def leapfrog(carry: tuple[_Place, jax.Array], _: None) -> tuple[Any, None]:
            at, r = carry
            r = r + 0.5 * epsilon * at.push
            at = place(at.c + epsilon * (spread @ r), seen)
            return (at, r + 0.5 * epsilon * at.push), None

        (there, end), _ = jax.lax.scan(leapfrog, (here, r), length=LEAPFROGS)
        log_ratio = there.log_density - here.log_density + 0.5 * (jnp.sum(r**2) - jnp.sum(end**2))
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        taken = jnp.log(jax.random.uniform(k_accept)) < log_ratio
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), there, here), jnp.exp(jnp.minimum(log_ratio, 0.0))

    def one(carry: Any, xs: Any) -> tuple[Any, jax.Array]:
        (places, log_steps), (k, number) = carry, xs
        shared = 2 * number >= moves
        log_steps = jnp.where(shared, jnp.median(log_steps), log_steps)
        keys = jax.random.split(k, len(samples))
        places, chances = jax.vmap(trajectory)(keys, places, observed, jnp.exp(log_steps))
        told = jnp.where(shared, jnp.mean(chances), chances)
        gain = (number + 1.0) ** GAIN_POWER
        return (places, log_steps + gain * (told - TARGET_ACCEPTANCE)), jnp.mean(chances)

    with jax.default_matmul_precision("highest"):
        places = jax.vmap(place)(jax.vmap(where.compress)(samples), observed)
        # what K dimensions allow
        first = jnp.log(FIRST_STEP) - 0.25 * jnp.log(dimensions)
        begin = places, jnp.full(len(samples), first)
        (places, _), rates = jax.lax.scan(one, begin, (jax.random.split(key, moves), jnp.arange(moves)))
        moved = observed + jax.vmap(where.expand)(places.c)
    gradients = len(samples) * (1 + moves * LEAPFROGS)
    spent = jnp.asarray(2 * flow.bijector.blocks * gradients, jnp.int32)
    return Moved(moved, jnp.mean(rates[moves // 2 :]), spent)
