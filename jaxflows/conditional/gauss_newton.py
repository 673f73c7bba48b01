"""The Gauss-Newton posterior: a full-covariance q(x_hidden) without stochastic optimisation (docs/design.md, section 6).

1. Anchor: the completion of least latent norm, y* = argmin |g(y)|^2 / 2 over y_hidden, by Gauss-Newton steps.
2. At y*, with A = G[:, H] the hidden columns of the Jacobian and N = A^T A = C C^T, the linearised target
   p0(x_hidden) p0(x_observed) in x_hidden is the Gaussian with

       mean P_H g(y*),  precision I + B^T B = (G^HH)^{-T} N (G^HH)^{-1},  B = dx_observed/dx_hidden,

   so that x_hidden = P_H g(y*) + G^HH C^{-T} eps samples it, and y* + C^{-T} eps already predicts the completed event.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, SolveInfo, no_work
from jaxflows.conditional.hidden import Hidden, hidden_block, hidden_columns
from jaxflows.flows import Flow
from jaxflows.solvers.boundary_sweep import hold_ends, sweep
from jaxflows.solvers.equation import trace

# lengths tried along a Gauss-Newton direction, all in one batched encode
STEP_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03)

# plain sweeps from which the search for the anchor starts
ROUGH_SWEEPS = 8

# the decrease of |x|^2 / 2, in nats, under which a Gauss-Newton step is taken to first order and ends the search
SMALL_DECREASE = 1e-2


class Reference(NamedTuple):
    """The coordinates eta in which a posterior is written: x_hidden = mean + scale eta, all in hidden slots.

    Attributes:
        mean: (K,).
        scale: (K, K).
        log_det: log|det scale|.
        anchor: (*event,), the completed event at eta = 0.
        spread: (K, K): anchor + spread eta predicts the hidden part of the event, to first order.
        info: of the solves that led to the anchor.
    """

    mean: jax.Array
    scale: jax.Array
    log_det: jax.Array
    anchor: jax.Array
    spread: jax.Array
    info: SolveInfo


class Linearised(NamedTuple):
    """An event of the search for the anchor and its linearisation: columns A, factor C of A^T A = C C^T, half C^{-1} A^T x."""

    y: jax.Array
    x_hidden: jax.Array
    columns: jax.Array
    factor: jax.Array
    half: jax.Array
    decrease: jax.Array
    steps: jax.Array
    moving: jax.Array


def rough_completion(flow: Flow, params: Params, where: Hidden, y_observed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An event near the solution for x_hidden = 0, by a few plain sweeps, and the block evaluations spent.

    A place to start from needs neither acceleration nor a test, which would be compiled a second time beside the solver's.
    """
    observation = where.observation
    zero = jnp.zeros(flow.latent_shape, y_observed.dtype)
    stack = hold_ends(flow, observation, y_observed, zero, trace(flow, params, y_observed))
    stack = jax.lax.fori_loop(0, ROUGH_SWEEPS, lambda _, s: sweep(flow, params, observation, s), stack)
    bijector = flow.bijector
    y = jnp.where(jnp.isfinite(stack.first), stack.first, y_observed)
    return y, jnp.asarray(bijector.blocks + ROUGH_SWEEPS * bijector.sweep_blocks, jnp.int32)


def prior_reference(flow: Flow, params: Params, where: Hidden, y_observed: jax.Array) -> Reference:
    """eta = x_hidden, so that q starts at the prior N(0, I). The anchor is near the solution for x_hidden = 0."""
    anchor, evaluations = rough_completion(flow, params, where, y_observed)
    size = where.slots.size
    zeros = jnp.zeros((size, size), y_observed.dtype)
    identity = jnp.eye(size, dtype=y_observed.dtype)
    info = no_work()._replace(evaluations=evaluations)
    return Reference(jnp.zeros(size, y_observed.dtype), identity, jnp.zeros(()), anchor, zeros, info)


def gauss_newton_reference(flow: Flow, params: Params, where: Hidden, y_observed: jax.Array, max_steps: int = 12) -> Reference:
    """The reference in which the Gauss-Newton posterior is eta ~ N(0, I).

    Args:
        flow, params: the flow.
        where: the hidden subspace, K slots.
        y_observed: (*event,), its hidden part zero.
        max_steps: Gauss-Newton steps at most.

    Returns:
        The reference. ``info`` says whether the anchor was found: ``residual`` is the predicted decrease of |x|^2 / 2
        still to be had. Cost: a step takes K JVPs of ``encode`` and O(d K^2) arithmetic.
    """
    y, evaluations = rough_completion(flow, params, where, y_observed)
    border = jnp.diag(jnp.where(where.used, 0.0, 1.0).astype(y_observed.dtype))
    lengths = jnp.asarray((0.0, *STEP_LENGTHS), y_observed.dtype)

    def half_norm(y: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(flow.encode(params, y) ** 2)

    def unfinished(carry: Linearised) -> jax.Array:
        return carry.moving

    def body(carry: Linearised) -> Linearised:
        x, columns = hidden_columns(flow, params, where, carry.y)
        factor = jnp.linalg.cholesky(columns.T @ columns + border)
        slope = columns.T @ where.observation.to_coordinates(x).reshape(-1)
        half = jax.scipy.linalg.solve_triangular(factor, slope, lower=True)
        decrease = 0.5 * jnp.sum(half**2)
        direction = where.expand(-jax.scipy.linalg.solve_triangular(factor.T, half, lower=False))
        candidates = carry.y + lengths.reshape((-1,) + (1,) * carry.y.ndim) * direction
        values = jax.vmap(half_norm)(candidates)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        # the event stays where it was linearised when the search stops
        moving = (decrease > SMALL_DECREASE) & (best > 0) & (carry.steps + 1 < max_steps)
        y = jnp.where(moving, candidates[best], carry.y)
        return Linearised(y, where.compress(x), columns, factor, half, decrease, carry.steps + 1, moving)

    with jax.default_matmul_precision("highest"):
        slots = where.slots.size
        zeros = functools.partial(jnp.zeros, dtype=y.dtype)
        count, moving = jnp.zeros((), jnp.int32), jnp.ones((), bool)
        begin = Linearised(
            y, zeros(slots), zeros((y.size, slots)), zeros((slots, slots)), zeros(slots), zeros(()), count, moving
        )
        end = jax.lax.while_loop(unfinished, body, begin)
        block = hidden_block(where, end.columns)
        identity = jnp.eye(slots, dtype=y.dtype)
        spread = jax.scipy.linalg.solve_triangular(end.factor.T, identity, lower=False)
        scale = block @ spread
        # the last step, to first order: nothing is linearised again for a step that moves no sample
        rest = jnp.where(end.decrease <= SMALL_DECREASE, -spread @ end.half, 0.0)
        y = end.y + where.expand(rest)
        mean = end.x_hidden + jnp.where(where.used, block @ rest, 0.0)
        log_det = jnp.linalg.slogdet(block)[1] - jnp.sum(jnp.log(jnp.diagonal(end.factor)))
    blocks = flow.bijector.blocks
    per_step = blocks * (2 * where.slots.size + len(STEP_LENGTHS) + 1)
    left = jnp.where(jnp.isfinite(end.decrease), end.decrease, jnp.inf)
    report = SolveInfo(left, end.steps, left < 1.0, evaluations + end.steps * per_step)
    return Reference(mean, scale, log_det, y, spread, report)
