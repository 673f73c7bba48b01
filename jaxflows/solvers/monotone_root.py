"""Roots of increasing scalar equations, elementwise, by Newton steps inside a bracket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.solvers.implicit_root import Equation

# each step halves the defect or the bracket: enough for any bracket of float64 numbers met in practice
MAX_STEPS = 128


class _State(NamedTuple):
    """The bracket, the next point, the best point and its defect, the last defect, and steps taken."""

    low: jax.Array
    high: jax.Array
    t: jax.Array
    best: jax.Array
    best_size: jax.Array
    last_size: jax.Array
    steps: jax.Array


def monotone_root(equation: Equation) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Make the solver of F(args, t) = 0 for t, F acting entry by entry and increasing in t.

    Newton's step is taken where it stays inside the bracket and the last one halved the defect; the bracket is bisected
    otherwise. So every step halves one or the other, whatever F: a tanh that sends plain Newton into a cycle included.

    Args:
        equation: F, ``(args, t) -> defect`` of t's shape, in the units of t.

    Returns:
        ``solve(args, low, high) -> (t, steps)`` for brackets with F(low) <= 0 <= F(high). It stops when every defect is
        within one unit in the last place of the first bracket's larger end, or its bracket has closed, and returns the
        points of least defect. It carries no derivative: `implicit_root` gives it one.

    Cost: one JVP of F a step; about six steps for a smooth F, at most `MAX_STEPS`.
    """

    def solve(args: Any, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        eps = jnp.finfo(low.dtype).eps
        floor = eps * jnp.maximum(jnp.abs(low), jnp.abs(high))

        def unfinished(state: _State) -> jax.Array:
            # where F is steep, neighbouring numbers straddle the root with defects above the floor
            apart = state.high - state.low > eps * jnp.maximum(jnp.abs(state.low), jnp.abs(state.high))
            return jnp.any((state.best_size > floor) & apart) & (state.steps < MAX_STEPS)

        def step(state: _State) -> _State:
            t = state.t
            defect, slope = jax.jvp(lambda s: equation(args, s), (t,), (jnp.ones_like(t),))
            size = jnp.abs(defect)
            better = size < state.best_size
            low, high = jnp.where(defect < 0, t, state.low), jnp.where(defect < 0, state.high, t)
            newton = t - defect / slope
            trusted = (low < newton) & (newton < high) & (size <= 0.5 * state.last_size)
            return _State(
                low, high, jnp.where(trusted, newton, low + 0.5 * (high - low)), jnp.where(better, t, state.best),
                jnp.where(better, size, state.best_size), size, state.steps + 1,
            )  # fmt: skip

        middle, infinite = low + 0.5 * (high - low), jnp.full_like(low, jnp.inf)
        start = _State(low, high, middle, middle, infinite, infinite, jnp.zeros((), jnp.int32))
        end = jax.lax.while_loop(unfinished, step, start)
        return end.best, end.steps

    return solve
