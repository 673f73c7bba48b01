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
    # JAX traces an operator nine times for a solve, and each of its transposes
    operator = jax.jit(operator)

    def cycle(b: jax.Array, tol: jax.Array) -> tuple[jax.Array, int]:
        x, _ = jax.scipy.sparse.linalg.gmres(
            operator, b, tol=tol, restart=restart, maxiter=1, solve_method="incremental", M=preconditioner
        )
        # a cycle's own residuals before and after it
        return x, restart + 2

    return _refined(cycle, operator, right_hand_side, tol, max_restarts)


def simpler_gmres(
    operator: LinearMap,
    right_hand_side: jax.Array,
    *,
    tol: float | jax.Array,
    restart: int = 20,
    max_restarts: int = 10,
    preconditioner: LinearMap | None = None,
) -> tuple[jax.Array, SolveInfo]:
    """`gmres` for a batch of small systems under ``vmap``: the same Krylov spaces and minimal residuals, for less.

    With w_k an orthonormal basis of A K_m and A z_k = w_k, the residual falls as r <- r - (w_k . r) w_k and x grows by
    (w_k . r) z_k: no Hessenberg matrix and no rotations, whose loops of a few numbers each are what `gmres` spends its time
    on there. The next direction is the residual where the last step lowered it by a tenth, which keeps the basis well
    conditioned, and w_k elsewhere, which never breaks down.

    Args, Returns: as `gmres`; ``info.evaluations`` is exact. Memory: 2 restart vectors.

    References: Walker and Zhou 1994 (A simpler GMRES); Jiranek and Rozloznik 2010 (its adaptive version).
    """
    shape, size, dtype = right_hand_side.shape, right_hand_side.size, right_hand_side.dtype
    restart = min(restart, size)

    def apply(function: LinearMap | None, v: jax.Array) -> jax.Array:
        return v if function is None else function(v.reshape(shape)).reshape(-1)

    def cycle(b: jax.Array, tol: jax.Array) -> tuple[jax.Array, jax.Array]:
        def unfinished(carry: Any) -> jax.Array:
            *_, norm, steps, grown = carry
            return (norm > tol) & (steps < restart) & grown

        def body(carry: Any) -> Any:
            x, r, direction, basis, norm, steps, _ = carry
            z = apply(preconditioner, direction)
            pair = jnp.concatenate([apply(operator, z), z])
            pair = pair - (basis[:, :size] @ pair[:size]) @ basis
            length = jnp.linalg.norm(pair[:size])
            grown = length > 0
            pair = pair / jnp.where(grown, length, 1.0)
            w, z = pair[:size], pair[size:]
            share = w @ r
            r = r - share * w
            left = jnp.linalg.norm(r)
            # a selection, not an indexed write: see `jaxflows.solvers.anderson`
            basis = jnp.where((jnp.arange(restart) == steps)[:, None], pair, basis)
            return x + share * z, r, jnp.where(left < 0.9 * norm, r, w), basis, left, steps + 1, grown

        b = b.reshape(-1)
        nothing, basis = jnp.zeros((), jnp.int32), jnp.zeros((restart, 2 * size), dtype)
        carry = (jnp.zeros_like(b), b, b, basis, jnp.linalg.norm(b), nothing, jnp.ones((), bool))
        x, *_, steps, _ = jax.lax.while_loop(unfinished, body, carry)
        return x.reshape(shape), steps

    return _refined(cycle, operator, right_hand_side, tol, max_restarts)


def _refined(
    cycle: Callable[[jax.Array, jax.Array], tuple[jax.Array, int | jax.Array]],
    operator: LinearMap,
    right_hand_side: jax.Array,
    tol: float | jax.Array,
    max_restarts: int,
) -> tuple[jax.Array, SolveInfo]:
    """Repeat ``(b, tol) -> (x, applications of A)`` on what is left of b, until the measured residual meets the tolerance."""

    def norm(v: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(v * v))

    size = norm(right_hand_side)
    unit = jnp.where(size > 0, size, 1.0)

    def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
        _, _, residual, cycles, _, gaining = carry
        return (residual > tol) & (cycles < max_restarts) & gaining

    def again(carry: Any) -> Any:
        x, defect, residual, cycles, evaluations, _ = carry
        step, spent = cycle(defect / residual, 0.5 * tol / residual)
        trial = x + residual * step
        trial_defect = right_hand_side / unit - operator(trial)
        trial_residual = norm(trial_defect)
        # False for NaN: a broken cycle is not taken and ends the solve
        better = trial_residual < residual
        gaining = trial_residual < 0.9 * residual
        x = jnp.where(better, trial, x)
        defect = jnp.where(better, trial_defect, defect)
        return x, defect, jnp.where(better, trial_residual, residual), cycles + 1, evaluations + spent + 1, gaining

    b = right_hand_side / unit
    finite = jnp.all(jnp.isfinite(b))
    residual = jnp.where(finite, norm(b), jnp.inf)
    zero = jnp.zeros((), jnp.int32)
    carry = (jnp.zeros_like(b), b, residual, zero, zero, finite)
    with jax.default_matmul_precision("highest"):
        x, _, residual, cycles, evaluations, _ = jax.lax.while_loop(unfinished, again, carry)
    return x * unit, SolveInfo(residual, cycles, residual <= tol, evaluations)


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
    tol: float | None = None,
) -> tuple[jax.Array, SolveInfo]:
    """(G^HH)^{-1} P_H b at y, or with ``transpose`` (G^HH)^{-T} P_H b, zero on the observed subspace.

    Args:
        right_hand_side: b, event-shaped (move a latent back first).
        transpose: solve with the transpose.
        inverse: an approximate inverse of G^HH, from a hidden event to a hidden event; transposed where need be.
        tol: relative residual accepted; `linear_tolerance` when None.

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
    limit = linear_tolerance(b.dtype) if tol is None else tol
    solution, info = simpler_gmres(operator, b, tol=limit, preconditioner=preconditioner)
    return observation.hidden_part(solution), info._replace(evaluations=2 * flow.bijector.blocks * info.evaluations)
