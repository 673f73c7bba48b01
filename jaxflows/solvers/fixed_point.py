"""Fixed points x = F(x), solved to a true residual and differentiated implicitly.

The stopping test is the residual |F(x) - x| at the iterate itself, in the maximum norm. (The residual-flow code in common
use squares the step instead, so that its stated 1e-5 leaves errors of 3e-3 to 1e-1.) A solve also stops when the residual
has not improved for a while, as happens at the rounding floor, and says so in ``info.converged``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import SolveInfo
from jaxflows.solvers.anderson import AndersonState, anderson_next, anderson_start

Step = Callable[[Any, jax.Array], jax.Array]

# iterations without a new best residual after which a solve has stagnated
PATIENCE = 15


def default_tolerance(dtype: Any) -> float:
    """The residual asked of a solve when none is given: 1e-5 in float32, 1e-11 in float64."""
    return 1e-5 if jnp.finfo(dtype).bits <= 32 else 1e-11


def iterate(
    step: Callable[[jax.Array], jax.Array], start: jax.Array, *, tol: float | jax.Array, max_steps: int, history: int
) -> tuple[jax.Array, SolveInfo]:
    """Iterate ``x <- F(x)``, Anderson-mixed over ``history`` differences (0 for the plain Banach iteration).

    Args:
        step: F, from an array to an array of the same shape.
        start: where to begin.
        tol: largest absolute entry of F(x) - x accepted.
        max_steps: evaluations of F at most.
        history: depth of the Anderson memory.

    Returns:
        ``(x, info)``: the iterate of least residual seen; ``info.evaluations`` counts applications of F.
    """
    shape = start.shape

    def residual_at(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        r = step(x.reshape(shape)).reshape(-1) - x
        size = jnp.max(jnp.abs(r), initial=0.0)
        return r, jnp.where(jnp.isfinite(size), size, jnp.inf)

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, _, best_size, _, steps, last_gain = carry
        return (best_size > tol) & (steps < max_steps) & (steps - last_gain < PATIENCE)

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, best, best_size, memory, steps, last_gain = carry
        r, size = residual_at(x)
        better = size < best_size
        best = jnp.where(better, x, best)
        # a gain of under a tenth is the noise of rounding, not progress
        last_gain = jnp.where(size < 0.9 * best_size, steps, last_gain)
        best_size = jnp.minimum(size, best_size)
        x_next, memory = anderson_next(memory, x, r) if history else (x + r, memory)
        return x_next, best, best_size, memory, steps + 1, last_gain

    flat = start.reshape(-1)
    zero = jnp.zeros((), jnp.int32)
    memory: AndersonState | tuple[()] = anderson_start(flat, history) if history else ()
    carry = (flat, flat, jnp.full((), jnp.inf, flat.dtype), memory, zero, zero)
    with jax.default_matmul_precision("highest"):
        _, best, size, _, steps, _ = jax.lax.while_loop(unfinished, body, carry)
    return best.reshape(shape), SolveInfo(size, steps, size <= tol, steps)


def fixed_point(
    step: Step, *, tol: float | None = None, max_steps: int = 500, history: int = 5
) -> Callable[[Any, jax.Array], tuple[jax.Array, SolveInfo]]:
    """Make the solver of ``x = step(args, x)``, differentiable in ``args``.

    With x the fixed point, the implicit function theorem gives the cotangent of args as (d step/d args)^T w where
    w = (d step/dx)^T w + x_bar, itself a fixed point solved the same way.

    Args:
        step: ``(args, x) -> x``, a contraction in x; args is any pytree.
        tol: residual accepted, in the maximum norm; `default_tolerance` when None.
        max_steps: evaluations at most, forward and backward each.
        history: depth of the Anderson memory; 0 for plain Banach iteration.

    Returns:
        ``solve(args, start) -> (x, SolveInfo)``. The start carries no gradient.

    References: Bai et al. 2019 (Deep equilibrium models); IVCNF Sec. 3.3.
    """

    def tolerance(dtype: Any) -> float:
        return default_tolerance(dtype) if tol is None else tol

    @jax.custom_vjp
    def solve(args: Any, start: jax.Array) -> tuple[jax.Array, SolveInfo]:
        limit = tolerance(start.dtype)
        return iterate(lambda x: step(args, x), start, tol=limit, max_steps=max_steps, history=history)

    def solve_fwd(args: Any, start: jax.Array) -> tuple[tuple[jax.Array, SolveInfo], tuple[Any, jax.Array]]:
        x, info = solve(args, start)
        return (x, info), (args, x)

    def solve_bwd(saved: tuple[Any, jax.Array], cotangents: tuple[jax.Array, SolveInfo]) -> tuple[Any, jax.Array]:
        args, x = saved
        x_bar = cotangents[0]
        _, pull_back = jax.vjp(step, args, x)
        # the tolerance is relative to the cotangent: gradients have no scale of their own
        size = jnp.max(jnp.abs(x_bar), initial=0.0)
        limit = tolerance(x.dtype) * jnp.maximum(size, jnp.finfo(x.dtype).tiny)
        w, _ = iterate(lambda w: x_bar + pull_back(w)[1], x_bar, tol=limit, max_steps=max_steps, history=history)
        return pull_back(w)[0], jnp.zeros_like(x)

    solve.defvjp(solve_fwd, solve_bwd)
    return solve
