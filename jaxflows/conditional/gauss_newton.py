"""The Gauss-Newton posterior: a full-covariance q(x_hidden) without stochastic optimisation (docs/design.md, section 6).

1. Anchor: the completion of least latent norm, y* = argmin |g(y)|^2 / 2 over y_hidden, by Gauss-Newton steps.
2. At y*, with A = G[:, H] the hidden columns of the Jacobian and N = A^T A = C C^T, the linearised target
   p0(x_hidden) p0(x_observed) in x_hidden is the Gaussian with

       mean P_H g(y*),  precision I + B^T B = (G^HH)^{-T} N (G^HH)^{-1},  B = dx_observed/dx_hidden,

   so that x_hidden = P_H g(y*) + G^HH C^{-T} eps samples it, and y* + C^{-T} eps already predicts the completed event.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.conditional.hidden import Hidden, hidden_block, hidden_columns
from jaxflows.flows import Flow
from jaxflows.solvers.equation import ConstraintSolver

# lengths tried along a Gauss-Newton direction, all in one batched encode
STEP_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03)


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


def prior_reference(
    flow: Flow, params: Params, where: Hidden, y_observed: jax.Array, solver: ConstraintSolver
) -> Reference:
    """eta = x_hidden, so that q starts at the prior N(0, I). The anchor is the solution for x_hidden = 0."""
    solution, info = solver(flow, params, where.observation, y_observed, jnp.zeros(flow.latent_shape), None)
    size = where.slots.size
    zeros = jnp.zeros((size, size), y_observed.dtype)
    identity = jnp.eye(size, dtype=y_observed.dtype)
    return Reference(jnp.zeros(size, y_observed.dtype), identity, jnp.zeros(()), solution.y, zeros, info)


def gauss_newton_reference(
    flow: Flow, params: Params, where: Hidden, y_observed: jax.Array, solver: ConstraintSolver, max_steps: int = 12
) -> Reference:
    """The reference in which the Gauss-Newton posterior is eta ~ N(0, I).

    Args:
        flow, params: the flow.
        where: the hidden subspace, K slots.
        y_observed: (*event,), its hidden part zero.
        solver: solves for x_hidden = 0, where the search for the anchor begins.
        max_steps: Gauss-Newton steps at most.

    Returns:
        The reference. ``info`` says whether the anchor was found: ``residual`` is the predicted decrease of |x|^2 / 2
        still to be had. Cost: a step takes K JVPs of ``encode`` and O(d K^2) arithmetic.
    """
    solution, info = solver(flow, params, where.observation, y_observed, jnp.zeros(flow.latent_shape), None)
    factor_shape = (where.slots.size, where.slots.size)
    border = jnp.diag(jnp.where(where.used, 0.0, 1.0).astype(y_observed.dtype))
    lengths = jnp.asarray(STEP_LENGTHS, y_observed.dtype)

    def half_norm(y: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(flow.encode(params, y) ** 2)

    def linearise(y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        x, columns = hidden_columns(flow, params, where, y)
        normal = columns.T @ columns + border
        factor = jnp.linalg.cholesky(normal)
        slope = columns.T @ where.observation.to_coordinates(x).reshape(-1)
        half = jax.scipy.linalg.solve_triangular(factor, slope, lower=True)
        return x, columns, factor, half

    def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
        return carry[-1]

    def body(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        y, value, _, steps, _ = carry
        _, _, factor, half = linearise(y)
        direction = where.expand(-jax.scipy.linalg.solve_triangular(factor.T, half, lower=False))
        candidates = y + lengths.reshape((-1,) + (1,) * y.ndim) * direction
        values = jax.vmap(half_norm)(candidates)
        values = jnp.where(jnp.isfinite(values), values, jnp.inf)
        best = jnp.argmin(values)
        improved = values[best] < value
        decrease = 0.5 * jnp.sum(half**2)
        y_next = jnp.where(improved, candidates[best], y)
        gain = value - values[best]
        # a hundredth of a nat moves no sample
        go_on = improved & (gain > 1e-2) & (steps + 1 < max_steps)
        return y_next, jnp.minimum(value, values[best]), decrease, steps + 1, go_on

    with jax.default_matmul_precision("highest"):
        start = solution.y
        carry = (start, half_norm(start), jnp.zeros((), start.dtype), jnp.zeros((), jnp.int32), jnp.ones((), bool))
        y, _, _, steps, _ = jax.lax.while_loop(unfinished, body, carry)
        x, columns, factor, half = linearise(y)
        block = hidden_block(where, columns)
        spread = jax.scipy.linalg.solve_triangular(factor.T, jnp.eye(factor_shape[0], dtype=y.dtype), lower=False)
        scale = block @ spread
        log_det = jnp.linalg.slogdet(block)[1] - jnp.sum(jnp.log(jnp.diagonal(factor)))
    left = 0.5 * jnp.sum(half**2)
    blocks = flow.bijector.blocks
    per_step = blocks * (2 * where.slots.size + len(STEP_LENGTHS))
    report = SolveInfo(
        jnp.where(jnp.isfinite(left), left, jnp.inf),
        info.steps + steps,
        info.converged & (left < 1.0),
        info.evaluations + (steps + 1) * per_step,
    )
    return Reference(where.compress(x), scale, log_det, y, spread, report)
