"""Fixed points x = F(x), solved to a true residual and differentiated implicitly.

The stopping test is the residual |F(x) - x| at the iterate itself, in the maximum norm. (The residual-flow code in
common use squares the step instead, so that its stated 1e-5 leaves errors of 3e-3 to 1e-1.) Where F is a contraction of
known constant s the residual bounds the error, |x - x*| <= |F(x) - x| / (1 - s), and the solve goes on until that bound
meets the tolerance or rounding forbids more. A solve also stops when the residual has not improved for a while, as
happens at the rounding floor, and says so in ``info.converged``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import SolveInfo
from jaxflows.solvers.anderson import AndersonState, anderson_next, anderson_start
from jaxflows.solvers.implicit_root import implicit_root
from jaxflows.solvers.largest import largest

Step = Callable[[Any, jax.Array], jax.Array]

# a solve has stagnated when this many iterations together have not brought the residual down by one part in a hundred
PATIENCE = 15
GAIN = 0.99


def default_tolerance(dtype: Any) -> float:
    """The residual asked of a solve when none is given: 1e-5 in float32, 1e-11 in float64."""
    return 1e-5 if jnp.finfo(dtype).bits <= 32 else 1e-11


def iterate(
    step: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    tol: float | jax.Array,
    max_steps: int | jax.Array,
    history: int,
    contraction: float = 0.0,
) -> tuple[jax.Array, SolveInfo]:
    """Iterate ``x <- F(x)``, Anderson-mixed over ``history`` differences (0 for the plain Banach iteration).

    Args:
        step: F, from an array to an array of the same shape.
        start: where to begin.
        tol: largest absolute entry of F(x) - x accepted.
        max_steps: evaluations of F at most.
        history: depth of the Anderson memory.
        contraction: s, a Lipschitz constant of F; the solve then aims at a residual of tol (1 - s), or of two units in
            the last place of x where that is more, so that the ERROR meets tol. 0 aims at tol itself.

    Returns:
        ``(x, info)``: the iterate of least residual seen; ``info.converged`` says whether its residual met ``tol``;
        ``info.evaluations`` counts applications of F.
    """

    def judged(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = step(x)
        return moved, largest(moved - x)

    return iterate_judged(judged, start, tol=tol, max_steps=max_steps, history=history, contraction=contraction)


def iterate_judged(
    step: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    start: jax.Array,
    *,
    tol: float | jax.Array,
    max_steps: int | jax.Array,
    history: int,
    contraction: float = 0.0,
) -> tuple[jax.Array, SolveInfo]:
    """`iterate` for a map that judges its argument: ``step`` gives F(x) and the residual of x, infinite where not finite."""
    shape = start.shape

    def residual_at(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved, size = step(x.reshape(shape))
        return moved.reshape(-1) - x, size

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, best, best_size, _, steps, _, last_gain = carry
        floor = 2 * jnp.finfo(best.dtype).eps * largest(best)
        aim = jnp.minimum(tol, jnp.maximum(tol * (1.0 - contraction), floor))
        return (best_size > aim) & (steps < max_steps) & (steps - last_gain < PATIENCE)

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, best, best_size, memory, steps, mark, last_gain = carry
        r, size = residual_at(x)
        better = size < best_size
        best = jnp.where(better, x, best)
        best_size = jnp.minimum(size, best_size)
        # measured from the last mark, not from the last iterate: a slow contraction gains little a step but never stops
        gained = best_size < GAIN * mark
        mark, last_gain = jnp.where(gained, best_size, mark), jnp.where(gained, steps, last_gain)
        x_next, memory = anderson_next(memory, x, r) if history else (x + r, memory)
        return x_next, best, best_size, memory, steps + 1, mark, last_gain

    flat = start.reshape(-1)
    zero = jnp.zeros((), jnp.int32)
    memory: AndersonState | tuple[()] = anderson_start(flat, history) if history else ()
    infinite = jnp.full((), jnp.inf, flat.dtype)
    carry = (flat, flat, infinite, memory, zero, infinite, zero)
    with jax.default_matmul_precision("highest"):
        _, best, size, _, steps, _, _ = jax.lax.while_loop(unfinished, body, carry)
    return best.reshape(shape), SolveInfo(size, steps, size <= tol, steps)


def fixed_point(
    step: Step, *, tol: float | None = None, max_steps: int = 500, history: int = 5, contraction: float = 0.0
) -> Callable[[Any, jax.Array], tuple[jax.Array, SolveInfo]]:
    """Make the solver of ``x = step(args, x)``, differentiable in ``args``, forward and backward, to any order.

    With x the fixed point, the implicit function theorem gives x_dot = (I - d step/dx)^-1 (d step/d args) args_dot.
    The linear system is itself a fixed point, w = b + (d step/dx) w, solved the same way; reverse mode solves its
    transpose.

    Args:
        step: ``(args, x) -> x``, a contraction in x; args is any pytree.
        tol: residual accepted, in the maximum norm; `default_tolerance` when None.
        max_steps: evaluations at most, of the solve and of each linear solve.
        history: depth of the Anderson memory; 0 for plain Banach iteration.
        contraction: a certified Lipschitz constant of ``step`` in x, in [0, 1): the error, not only the residual, then
            meets ``tol`` where rounding allows (see `iterate`).

    Returns:
        ``solve(args, start) -> (x, SolveInfo)``. The start carries no gradient.

    Cost: one application of ``step`` an iteration; a derivative adds as many JVPs or VJPs. Memory is constant in both.

    References: Bai et al. 2019 (Deep equilibrium models); IVCNF Sec. 3.3.
    """
    if tol is not None and not tol > 0.0:
        raise ValueError(f"expected tol > 0; got {tol}")
    if max_steps < 1 or history < 0:
        raise ValueError(f"expected max_steps >= 1 and history >= 0; got {max_steps} and {history}")
    if not 0.0 <= contraction < 1.0:
        raise ValueError(f"expected 0 <= contraction < 1; got {contraction}")
    run = functools.partial(iterate, max_steps=max_steps, history=history, contraction=contraction)

    def tolerance(dtype: Any) -> float:
        return default_tolerance(dtype) if tol is None else tol

    def solve_linear(operator: Callable[[jax.Array], jax.Array], b: jax.Array) -> jax.Array:
        # the tolerance is relative to the right-hand side: derivatives have no scale of their own
        limit = tolerance(b.dtype) * jnp.maximum(jnp.max(jnp.abs(b), initial=0.0), jnp.finfo(b.dtype).tiny)
        # operator(w) = w - (d step/dx) w
        return run(lambda w: b + w - operator(w), b, tol=limit)[0]

    def equation(args: Any, x: jax.Array) -> jax.Array:
        return x - step(args, x)

    def solve_tangent(args: Any, x: jax.Array, b: jax.Array) -> jax.Array:
        # jvp, not linearize: on jax 0.9.2 a linearised scan loses derivatives in what depends on the parameters alone
        def operator(w: jax.Array) -> jax.Array:
            return w - jax.jvp(lambda t: step(args, t), (x,), (w,))[1]

        return jax.lax.custom_linear_solve(operator, b, solve_linear, transpose_solve=solve_linear)

    implicit = implicit_root(equation, solve_tangent)

    def solve(args: Any, start: jax.Array) -> tuple[jax.Array, SolveInfo]:
        fixed, limit = jax.lax.stop_gradient((args, start)), tolerance(start.dtype)
        x, info = run(lambda t: step(fixed[0], t), fixed[1], tol=limit)
        return implicit(args, x), info

    return solve
