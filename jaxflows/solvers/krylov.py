"""Linear solves with restricted Jacobians by GMRES, their residual always measured afterwards.

The restricted operator of a flow's Jacobian G = dg/dy is P_H G P_H + P_O, the sub-Jacobian G^HH bordered by an identity:
full size, no index lists, one program for every mask. `jax.scipy.sparse.linalg.gmres` returns no convergence flag (it
missed its tolerance on 34 of 40 random non-contractive systems of size 64), so the residual is computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.flows import Flow
from jaxflows.precision import full_precision

LinearMap = Callable[[jax.Array], jax.Array]


def gmres(
    operator: LinearMap,
    right_hand_side: jax.Array,
    *,
    tol: float | jax.Array,
    restart: int = 20,
    max_restarts: int = 10,
    preconditioner: LinearMap | None = None,
) -> tuple[jax.Array, SolveInfo]:
    """Solve A x = b by restarted GMRES, to the true relative residual |A x - b| / |b|.

    The restarts are ours, one call of `jax.scipy.sparse.linalg.gmres` each, so that the residual that ends the solve is
    the measured one, in float32 as an iterative refinement, and the cycles taken are known. JAX's own stopping rule
    takes a norm below the rounding unit for zero whatever b's scale, hence a right-hand side of norm one in each cycle.

    Args:
        operator: A, from an array to an array of the same shape.
        right_hand_side: b, any shape.
        tol: relative residual accepted, in the 2-norm.
        restart: Krylov dimension between restarts.
        max_restarts: restarts at most.
        preconditioner: an approximate inverse of A.

    Returns:
        ``(x, info)``: the x of least residual seen; ``info.steps`` counts restarts and ``info.evaluations`` applications
        of A, a bound from above since a cycle may end before its Krylov dimension is full.
    """
    restart = min(restart, right_hand_side.size)

    def norm(v: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(v * v))

    size = norm(right_hand_side)
    unit = jnp.where(size > 0, size, 1.0)

    def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
        _, _, residual, cycles, gaining = carry
        return (residual > tol) & (cycles < max_restarts) & gaining

    def cycle(carry: Any) -> Any:
        x, defect, residual, cycles, _ = carry
        step, _ = jax.scipy.sparse.linalg.gmres(
            operator, defect / residual, tol=0.5 * tol / residual, restart=restart, maxiter=1,
            solve_method="incremental", M=preconditioner,
        )  # fmt: skip
        trial = x + residual * step
        trial_defect = right_hand_side / unit - operator(trial)
        trial_residual = norm(trial_defect)
        # False for NaN: a broken cycle is not taken and ends the solve
        better = trial_residual < residual
        gaining = trial_residual < 0.9 * residual
        x = jnp.where(better, trial, x)
        defect = jnp.where(better, trial_defect, defect)
        return x, defect, jnp.where(better, trial_residual, residual), cycles + 1, gaining

    b = right_hand_side / unit
    finite = jnp.all(jnp.isfinite(b))
    residual = jnp.where(finite, norm(b), jnp.inf)
    carry = (jnp.zeros_like(b), b, residual, jnp.zeros((), jnp.int32), finite)
    with jax.default_matmul_precision("highest"):
        x, _, residual, cycles, _ = jax.lax.while_loop(unfinished, cycle, carry)
    # a cycle's own residuals before and after it, and the one that judges it
    return x * unit, SolveInfo(residual, cycles, residual <= tol, cycles * (restart + 3))


def linear_tolerance(dtype: Any) -> float:
    """Relative residual asked of the linear solves: 1e-5 in float32, 1e-11 in float64."""
    return 1e-5 if jnp.finfo(dtype).bits <= 32 else 1e-11


@full_precision
def restricted(flow: Flow, params: Params, observation: Any, y: jax.Array) -> tuple[LinearMap, LinearMap]:
    """v -> (P_H G P_H + P_O) v at y and its transpose, on event-shaped arrays, from one linearisation of ``encode``.

    A flow that moves entries is followed by the opposite move, so that rows and columns mean the same coordinates.
    Cost: one JVP of ``encode`` an application, one VJP for the transpose.
    """

    def hidden_map(v: jax.Array) -> jax.Array:
        x = flow.bijector.move_back(flow.encode(params, y + observation.hidden_part(v)))
        return observation.hidden_part(x) + observation.observed_part(v)

    push = jax.linearize(hidden_map, jnp.zeros_like(y))[1]
    pull = jax.linear_transpose(push, y)
    return push, lambda w: pull(w)[0]


def solve_restricted(
    flow: Flow,
    params: Params,
    observation: Any,
    y: jax.Array,
    right_hand_side: jax.Array,
    *,
    transpose: bool = False,
    inverse: LinearMap | None = None,
) -> tuple[jax.Array, SolveInfo]:
    """(G^HH)^{-1} P_H b at y, or with ``transpose`` (G^HH)^{-T} P_H b, zero on the observed subspace.

    Args:
        right_hand_side: b, event-shaped (move a latent back first).
        transpose: solve with the transpose.
        inverse: an approximate inverse of G^HH, from a hidden event to a hidden event; transposed where need be.

    Returns:
        ``(solution, info)``; ``info.evaluations`` counts a product with the Jacobian as two passes.
    """
    forward, backward = restricted(flow, params, observation, y)
    b = observation.hidden_part(right_hand_side)
    preconditioner = inverse
    if transpose and inverse is not None:
        transposed = jax.linear_transpose(inverse, b)

        def preconditioner(v: jax.Array) -> jax.Array:
            return transposed(v)[0]

    operator = backward if transpose else forward
    solution, info = gmres(operator, b, tol=linear_tolerance(b.dtype), preconditioner=preconditioner)
    return observation.hidden_part(solution), info._replace(evaluations=2 * flow.bijector.blocks * info.evaluations)
