"""The boundary sweep: the constraint as a two-point boundary-value problem over the layers (docs/design.md, section 3).

With z_0 = y, z_{l+1} = phi_l(z_l), z_L = x, the observed part is known at the data end and the hidden part at the latent
end. One sweep renews

    for l = 0 .. L-1:  P_O z_{l+1} <- P_O forward_step_l(z_l, z_{l+1})       keeping P_H z_{l+1}
    for l = L-1 .. 0:  P_H z_l     <- P_H backward_step_l(z_{l+1}, z_l)      keeping P_O z_l

with P_O z_0 = y_observed and P_H z_L = x_hidden held. It is a fixed-point map of the stack whose fixed point is exactly the
constraint; no nested fixed point is solved whatever the layers. Anderson mixing accelerates it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflows.bijectors.base import Params, SolveInfo, carried
from jaxflows.conditional.observation import Observation
from jaxflows.flows import Flow
from jaxflows.solvers.equation import (
    ConstraintSolver,
    Solution,
    Stack,
    constraint_residual,
    default_tolerance,
    trace,
)
from jaxflows.solvers.fixed_point import iterate


def sweep(flow: Flow, params: Params, observation: Observation, stack: Stack) -> Stack:
    """One backward and one forward pass. Cost: 2L block evaluations."""
    bijector = flow.bijector
    path, first = bijector.sweep_backward(params, observation, stack.last, stack.path, stack.first)
    path, last = bijector.sweep_forward(params, observation, first, path, stack.last)
    return Stack(first, path, last)


def hold_ends(
    flow: Flow, observation: Observation, y_observed: jax.Array, x_hidden: jax.Array, stack: Stack
) -> Stack:
    """The stack with P_O z_0 = y_observed and P_H z_L = x_hidden put in place."""
    last = stack.last - carried(flow.bijector, observation).hidden_part(stack.last - x_hidden)
    return Stack(observation.restore(stack.first, y_observed), stack.path, last)


@functools.cache
def boundary_sweep(
    *, tol: float | None = None, max_sweeps: int = 100, history: int = 10, rounds: int = 3
) -> ConstraintSolver:
    """The boundary sweep with Anderson mixing, the library's default solver.

    A round sweeps until the stack moves by less than a threshold, then encodes the event it found and measures the true
    residual max |P_H(g(y) - x_hidden)|; a round that missed the tolerance is followed by one with a threshold as many
    times smaller. The residual reported is the true one.

    Args:
        tol: residual accepted; 1e-4 in float32 and 1e-10 in float64 when None.
        max_sweeps: sweeps at most, in all rounds together.
        history: depth of the Anderson memory; 0 for the plain sweep.
        rounds: rounds at most.

    Returns:
        A `ConstraintSolver`. Cost: 2L block evaluations a sweep, L to start cold and L a round.
    """

    def solve(
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
    ) -> tuple[Solution, SolveInfo]:
        limit = default_tolerance(y_observed.dtype) if tol is None else tol
        blocks = flow.bijector.blocks
        cold = start is None
        if start is None:
            start = trace(flow, params, y_observed)
        stack = hold_ends(flow, observation, y_observed, x_hidden, start)
        flat, unravel = ravel_pytree(stack)

        def one_sweep(flat: jax.Array) -> jax.Array:
            return ravel_pytree(sweep(flow, params, observation, unravel(flat)))[0]

        def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
            _, _, residual, _, sweeps, turn = carry
            return (residual > limit) & (turn < rounds) & (sweeps < max_sweeps)

        def one_round(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            flat, _, residual, threshold, sweeps, turn = carry
            flat, info = iterate(one_sweep, flat, tol=threshold, max_steps=max_sweeps - sweeps, history=history)
            y = unravel(flat).first
            x = flow.encode(params, y)
            residual = constraint_residual(flow, observation, x, x_hidden)
            # aim as far below the tolerance as the last aim fell short of it
            threshold = threshold * jnp.clip(0.5 * limit / residual, 1e-3, 0.5)
            return flat, x, residual, threshold, sweeps + info.steps, turn + 1

        zero = jnp.zeros((), jnp.int32)
        infinite = jnp.full((), jnp.inf, flat.dtype)
        carry = (flat, stack.last, infinite, jnp.full((), limit, flat.dtype), zero, zero)
        with jax.default_matmul_precision("highest"):
            flat, x, residual, _, sweeps, turn = jax.lax.while_loop(unfinished, one_round, carry)
        found = unravel(flat)
        evaluations = blocks * (2 * sweeps + turn + int(cold))
        info = SolveInfo(residual, sweeps, residual <= limit, evaluations)
        return Solution(found.first, x, Stack(found.first, found.path, x)), info

    return solve
