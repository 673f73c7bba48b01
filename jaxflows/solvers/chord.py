"""The chord method with Anderson mixing: Newton's iteration with one fixed, known inverse.

With the unknown y = y_observed + P_H y and M an approximate inverse of G^HH near the solution,

    P_H y <- P_H y - M P_H (g(y) - x_hidden),

whose fixed point is the constraint whatever M is. Conditioning a flow factorises the hidden columns of G once a row, at the
anchor, and every draw of the row shares that factor: an iteration is one pass of the flow, with no Jacobian product, no
inner solve and no contraction asked of the layers. It converges as fast as g is near its linearisation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.solvers.equation import (
    ConstraintSolver,
    Solution,
    Stack,
    constraint_residual,
    default_tolerance,
    trace,
)
from jaxflows.solvers.fixed_point import iterate_judged
from jaxflows.solvers.largest import largest


@factory
def chord(*, tol: float | None = None, max_steps: int = 60, history: int = 8) -> ConstraintSolver:
    """The chord method in the data, Anderson-mixed.

    Args:
        tol: constraint residual accepted; 1e-4 in float32 and 1e-10 in float64 when None.
        max_steps: iterations at most.
        history: depth of the Anderson memory; 0 for the plain chord iteration.

    Returns:
        A `ConstraintSolver` that wants an ``inverse``; without one it takes the identity, which suits only flows near it.
        Cost: L block evaluations an iteration and L at the end, L blocks being one pass of the flow.

    Raises:
        ValueError: ``max_steps`` below 1 or a negative ``history``.
    """
    if max_steps < 1 or history < 0:
        raise ValueError(f"expected max_steps >= 1 and history >= 0; got {max_steps} and {history}")

    def solve(
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
        inverse: Partial | None = None,
    ) -> tuple[Solution, SolveInfo]:
        limit = default_tolerance(y_observed.dtype) if tol is None else tol
        target = flow.bijector.move_back(x_hidden)
        guess = y_observed if start is None else start.first
        y = observation.restore(jnp.where(jnp.isfinite(guess), guess, 0.0), y_observed)

        def correct(y: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = observation.restore(y, y_observed)
            defect = observation.hidden_part(flow.bijector.move_back(flow.encode(params, y)) - target)
            return y - (defect if inverse is None else inverse(defect)), largest(defect)

        with jax.default_matmul_precision("highest"):
            y, info = iterate_judged(correct, y, tol=limit, max_steps=max_steps, history=history)
            y = observation.restore(y, y_observed)
            stack = trace(flow, params, y)
        residual = constraint_residual(flow, observation, stack.last, x_hidden)
        evaluations = flow.bijector.blocks * (info.steps + 1)
        return Solution(y, stack.last, stack), SolveInfo(residual, info.steps, residual <= limit, evaluations)

    return solve
