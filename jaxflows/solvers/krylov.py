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

LinearMap = Callable[[jax.Array], jax.Array]


def gmres(
    operator: LinearMap,
    right_hand_side: jax.Array,
    *,
    tol: float | jax.Array,
    restart: int = 30,
    max_restarts: int = 10,
    preconditioner: LinearMap | None = None,
    guess: jax.Array | None = None,
) -> tuple[jax.Array, SolveInfo]:
    """Solve A x = b, reporting the true relative residual |A x - b| / |b|.

    Args:
        operator: A, from an array to an array of the same shape.
        right_hand_side: b, any shape.
        tol: relative residual accepted, in the 2-norm.
        restart: Krylov dimension between restarts.
        max_restarts: restarts at most.
        preconditioner: an approximate inverse of A.
        guess: where to start; zero when None.

    Returns:
        ``(x, info)``; ``info.evaluations`` counts applications of A, bounded from above as restarts run whole.
    """
    restart = min(restart, right_hand_side.size)
    with jax.default_matmul_precision("highest"):
        x, _ = jax.scipy.sparse.linalg.gmres(
            operator, right_hand_side, x0=guess, tol=tol, atol=0.0, restart=restart, maxiter=max_restarts,
            solve_method="incremental", M=preconditioner,
        )  # fmt: skip
        defect = jnp.linalg.norm((operator(x) - right_hand_side).reshape(-1))
    size = jnp.linalg.norm(right_hand_side.reshape(-1))
    residual = jnp.where(size > 0, defect / jnp.where(size > 0, size, 1.0), defect)
    residual = jnp.where(jnp.isfinite(residual), residual, jnp.inf)
    x = jnp.where(jnp.isfinite(x), x, 0.0)
    steps = jnp.asarray(restart, jnp.int32)
    # an honest margin: the Givens residual that stops GMRES and the true one part at rounding
    return x, SolveInfo(residual, steps, residual <= 10 * tol, steps)


def linear_tolerance(dtype: Any) -> float:
    """Relative residual asked of the linear solves: 1e-5 in float32, 1e-11 in float64."""
    return 1e-5 if jnp.finfo(dtype).bits <= 32 else 1e-11


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
    flow: Flow, params: Params, observation: Any, y: jax.Array, right_hand_side: jax.Array, *, transpose: bool = False
) -> tuple[jax.Array, SolveInfo]:
    """(G^HH)^{-1} P_H b at y, or with ``transpose`` (G^HH)^{-T} P_H b, zero on the observed subspace.

    Args:
        right_hand_side: b, event-shaped (move a latent back first).

    Returns:
        ``(solution, info)``; ``info.evaluations`` counts a product with the Jacobian as two passes.
    """
    forward, backward = restricted(flow, params, observation, y)
    b = observation.hidden_part(right_hand_side)
    solution, info = gmres(backward if transpose else forward, b, tol=linear_tolerance(b.dtype))
    return observation.hidden_part(solution), info._replace(evaluations=2 * flow.bijector.blocks * info.evaluations)
