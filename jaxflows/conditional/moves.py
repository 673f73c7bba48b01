"""Hamiltonian moves of completions: steps that leave p(y_hidden | y_observed) as it is, wherever they begin.

Where a flow bends much between the anchor and the bulk of the posterior, q is far from it, and the free latent that q draws may
have no completion at all. p(y) has no such trouble: every y with P_O y = y_observed has a density, and where the flow is
explicit both ways that density is one pass. With y = y_observed + P_H y and the reference's spread S (K, K), where S S^T is the
inverse of the Gauss-Newton Hessian at the anchor, a move is a trajectory of

    U(y) = -log p(y),   H = U(y) + |r|^2 / 2,   dy_hidden/dt = S r,   dr/dt = -S^T dU/dy_hidden,

by leapfrogs from a fresh r ~ N(0, I), accepted by Metropolis (Duane et al. 1987; Neal 2011). S S^T is its mass, so that all
directions are about alike. What was measured holds at every step: nothing is solved.

Moves after draws of weight w leave the weights proper (Gilks and Berzuini 2001, resample-move), but for the adaptation of their
steps, which the chains' own past decides and which vanishes (Andrieu and Thoms 2008). Without weights they begin at
`conditioned_events`: where what is hidden may be of several kinds, and the more so where its contrasts differ, chains from one
anchor are long in leaving it (docs/design.md, section 6).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.conditional.gauss_newton import Reference
from jaxflows.conditional.hidden import Hidden
from jaxflows.flows import Flow

# of a trajectory; its step is drawn from half to all of what the adaptation says, lest it be a period of the target
LEAPFROGS = 8

# the chance of acceptance that the adaptation aims at: what costs least where dimensions are many is 0.65 (Beskos et al. 2013),
# and a little above it is safer
TARGET_ACCEPTANCE = 0.75

# steps at most of the search for the anchor where draws are moved and not weighed: where K is thousands it is a long way to the
# mode itself, from which the moves lead away again
ANCHOR_STEPS = 12

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


def conditioned_events(
    key: jax.Array, flow: Flow, params: Params, where: Hidden, start: Reference, count: int
) -> tuple[jax.Array, jax.Array]:
    """Events of the flow made completions of ONE observation by the linearisation at the anchor: Matheron's rule.

        y = y* + P_H [(y' - y*) + S S^T A^T G P_O (y' - y*)],  y' = f(x'),  x' ~ N(0, I)

    with G the Jacobian of the flow at the anchor y* and A = G P_H: what was hidden of y' less its mean given what was observed
    of y', added to the anchor. Draws of the conditional itself where the flow is affine. Elsewhere they have the contrasts of
    the flow's own events, and those of different kinds begin apart.

    Args:
        key: random key, used once.
        flow, params: the flow, not turned.
        where: the hidden subspace.
        start: the reference at the anchor.
        count: how many.

    Returns:
        Completions (count, *event), the anchor where there is no density, and block evaluations spent. Cost: a decode, a
        product either way with the Jacobian and a log p each.

    Source: Journel and Huijbregts 1978; Hoffman and Ribak 1991.
    """
    spread = jnp.where(where.used[:, None] & where.used[None, :], start.spread, 0.0)
    with jax.default_matmul_precision("highest"):
        _, push = jax.linearize(lambda y: flow.encode(params, y), start.anchor)
        pull = jax.linear_transpose(push, start.anchor)

        def one(key: jax.Array) -> jax.Array:
            x = jax.random.normal(key, flow.latent_shape, start.anchor.dtype)
            apart = flow.decode(params, x)[0] - start.anchor
            (image,) = pull(push(where.observation.observed_part(apart)))
            y = start.anchor + where.expand(where.compress(apart) + spread @ (spread.T @ where.compress(image)))
            return jnp.where(jnp.isfinite(flow.log_prob(params, y)), y, start.anchor)

        events = jax.vmap(one)(jax.random.split(key, count))
    return events, jnp.asarray((1 + 4 * count) * flow.bijector.blocks, jnp.int32)


def move(key: jax.Array, flow: Flow, params: Params, where: Hidden, start: Reference, samples: jax.Array, moves: int) -> Moved:
    """Move every completion of ONE observation by ``moves`` trajectories; a pure function.

    Args:
        key: random key, used once.
        flow, params: the flow, not turned.
        where: the hidden subspace.
        start: the reference at the anchor, whose ``spread`` is S.
        samples: (S, *event), completions: their observed parts are kept.
        moves: trajectories each. In the first half every completion adapts a step of its own, so that one that begins where log
            p is steep is not left there; then they share the median of those, adapted on by ever less.

    Cost: ``LEAPFROGS`` + 1 gradients of log p a move and completion, and O(K^2) arithmetic for each.
    """
    observed = jax.vmap(where.observation.observed_part)(samples)
    dimensions = jnp.maximum(jnp.sum(where.used), 1).astype(samples.dtype)
    spread = jnp.where(where.used[:, None] & where.used[None, :], start.spread, 0.0)

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
