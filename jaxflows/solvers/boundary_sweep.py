"""The boundary sweep: the constraint as a two-point boundary-value problem over the layers (docs/design.md, section 3).

With z_0 = y, z_{l+1} = phi_l(z_l), z_L = x, the observed part is known at the data end and the hidden part at the latent
end. One sweep renews

    for l = 0 .. L-1:  P_O z_{l+1} <- P_O forward_step_l(z_l, z_{l+1})       keeping P_H z_{l+1}
    for l = L-1 .. 0:  P_H z_l     <- P_H backward_step_l(z_{l+1}, z_l)      keeping P_O z_l

with P_O z_0 = y_observed and P_H z_L = x_hidden held. It is a fixed-point map of the stack whose fixed point is exactly the
constraint; no nested fixed point is solved whatever the layers. A residual layer evaluates h(z_l) once for both passes: the
forward pass leaves z_l where it took h, and the backward pass takes it there again. Anderson mixing accelerates the map.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo, carried
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.solvers.anderson import AndersonState, anderson_next, anderson_start
from jaxflows.solvers.equation import (
    ConstraintSolver,
    Solution,
    Stack,
    constraint_residual,
    default_tolerance,
    trace,
)
from jaxflows.solvers.fixed_point import PATIENCE
from jaxflows.solvers.largest import largest

# the stack's move at which the true residual is first measured, in units of the tolerance
FIRST_AIM = 3.0


def sweep(flow: Flow, params: Params, observation: Observation, stack: Stack) -> Stack:
    """One forward and one backward pass. Cost: L block evaluations for residual layers, 2L for their inverses."""
    bijector = flow.bijector
    path, last, note = bijector.sweep_forward(params, observation, stack.first, stack.path, stack.last)
    path, first = bijector.sweep_backward(params, observation, last, path, stack.first, note)
    return Stack(first, path, last)


def hold_ends(flow: Flow, observation: Observation, y_observed: jax.Array, x_hidden: jax.Array, stack: Stack) -> Stack:
    """The stack with P_O z_0 = y_observed and P_H z_L = x_hidden put in place."""
    last = stack.last - carried(flow.bijector, observation).hidden_part(stack.last - x_hidden)
    return Stack(observation.restore(stack.first, y_observed), stack.path, last)


class _State(NamedTuple):
    """Where the iteration stands: next stack, Anderson memory, last and least move, sweeps, and when it last gained."""

    stack: jax.Array
    memory: AndersonState | tuple[()]
    move: jax.Array
    least_move: jax.Array
    sweeps: jax.Array
    last_gain: jax.Array


class _Found(NamedTuple):
    """The best event found, its trace, its true residual, the next threshold and the encodings made."""

    stack: Stack
    residual: jax.Array
    threshold: jax.Array
    checks: jax.Array


@factory
def boundary_sweep(
    *, tol: float | None = None, max_sweeps: int = 100, history: int = 8, max_checks: int = 5
) -> ConstraintSolver:
    """The boundary sweep with Anderson mixing, the library's default solver.

    It sweeps until the stack moves by less than a threshold, then encodes the event it found and measures the true
    residual max |P_H(g(y) - x_hidden)|. While that misses the tolerance it sweeps on, its memory kept, to a threshold as
    many times smaller. The residual reported is the true one.

    Args:
        tol: residual accepted; 1e-4 in float32 and 1e-10 in float64 when None.
        max_sweeps: sweeps at most.
        history: depth of the Anderson memory; 0 for the plain sweep.
        max_checks: encodings at most.

    Returns:
        A `ConstraintSolver`. Cost for a residual flow of L blocks: L block evaluations a sweep, L to start cold and L an
        encoding; 2L a sweep for layers that run inverted.

    Raises:
        ValueError: ``max_sweeps`` or ``max_checks`` below 1, or a negative ``history``.
    """
    if max_sweeps < 1 or max_checks < 1 or history < 0:
        raise ValueError(
            f"expected max_sweeps >= 1, max_checks >= 1 and history >= 0; got {max_sweeps}, {max_checks} and {history}"
        )

    def solve(
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
        inverse: Partial | None = None,
    ) -> tuple[Solution, SolveInfo]:
        del inverse
        limit = default_tolerance(y_observed.dtype) if tol is None else tol
        cold = start is None
        if start is None:
            start = trace(flow, params, y_observed)
        held = hold_ends(flow, observation, y_observed, x_hidden, start)
        flat, unravel = ravel_pytree(held)

        def one_sweep(state: _State) -> _State:
            swept = ravel_pytree(sweep(flow, params, observation, unravel(state.stack)))[0]
            change = swept - state.stack
            move = largest(change)
            stack, memory = (
                anderson_next(state.memory, state.stack, change) if isinstance(state.memory, AndersonState) else (swept, ())
            )
            # a gain of under a tenth is the noise of rounding, not progress
            last_gain = jnp.where(move < 0.9 * state.least_move, state.sweeps, state.last_gain)
            least_move = jnp.minimum(move, state.least_move)
            return _State(stack, memory, move, least_move, state.sweeps + 1, last_gain)

        def going(state: _State) -> jax.Array:
            return (state.sweeps < max_sweeps) & (state.sweeps - state.last_gain < PATIENCE) & jnp.isfinite(state.move)

        def unfinished(carry: tuple[_State, _Found]) -> jax.Array:
            state, found = carry
            first = found.checks == 0
            return first | ((found.residual > limit) & (found.checks < max_checks) & going(state))

        def sweep_and_check(carry: tuple[_State, _Found]) -> tuple[_State, _Found]:
            state, found = carry
            # the threshold was lowered below the last move, so that at least one sweep is made
            state = jax.lax.while_loop(lambda s: going(s) & (s.move > found.threshold), one_sweep, state)
            stack = trace(flow, params, observation.restore(unravel(state.stack).first, y_observed))
            residual = constraint_residual(flow, observation, stack.last, x_hidden)
            better = residual < found.residual
            stack = jax.tree.map(lambda new, old: jnp.where(better, new, old), stack, found.stack)
            # aim as far below the tolerance as the last aim fell short of it
            threshold = state.move * jnp.clip(0.5 * limit / residual, 1e-3, 0.5)
            return state, _Found(stack, jnp.minimum(residual, found.residual), threshold, found.checks + 1)

        zero = jnp.zeros((), jnp.int32)
        infinite = jnp.full((), jnp.inf, flat.dtype)
        largest_float = jnp.full((), jnp.finfo(flat.dtype).max, flat.dtype)
        memory: AndersonState | tuple[()] = anderson_start(flat, history) if history else ()
        state = _State(flat, memory, largest_float, infinite, zero, zero)
        found = _Found(held, infinite, jnp.full((), FIRST_AIM * limit, flat.dtype), zero)
        with jax.default_matmul_precision("highest"):
            state, found = jax.lax.while_loop(unfinished, sweep_and_check, (state, found))
        bijector = flow.bijector
        evaluations = bijector.sweep_blocks * state.sweeps + bijector.blocks * (found.checks + int(cold))
        info = SolveInfo(found.residual, state.sweeps, found.residual <= limit, evaluations)
        return Solution(found.stack.first, found.stack.last, found.stack), info

    return solve
