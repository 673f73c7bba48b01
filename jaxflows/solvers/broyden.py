"""Broyden's method on the boundary sweep, by jaxopt; the one module that imports jaxopt.

The unknown is the stack z of `boundary_sweep`, the equation F(z) = z - sweep(z) = 0. The sweep being nearly a
contraction, the identity is a fair first guess of the inverse Jacobian, which rank-one updates then improve:

    z_{k+1} = z_k - B_k F(z_k),    B_0 = I,    B_{k+1} (F_{k+1} - F_k) = z_{k+1} - z_k.
"""

from __future__ import annotations

import types
import warnings

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.solvers.boundary_sweep import hold_ends, sweep
from jaxflows.solvers.equation import (
    ConstraintSolver,
    Solution,
    Stack,
    constraint_residual,
    default_tolerance,
    trace,
)


def import_jaxopt() -> types.ModuleType:
    """jaxopt, imported when first needed; the warning that it is no longer developed, and no other, is silenced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
        import jaxopt
    return jaxopt


@factory
def broyden(*, tol: float | None = None, max_steps: int = 100, history: int = 20) -> ConstraintSolver:
    """`jaxopt.Broyden` with unit steps on the sweep's defect.

    An alternative to Anderson mixing of the same map, kept for comparison.

    Args:
        tol: constraint residual accepted; 1e-4 in float32 and 1e-10 in float64 when None.
        max_steps: Broyden steps at most.
        history: rank-one updates remembered.

    Returns:
        A `ConstraintSolver`. Cost: 2L block evaluations a step, 2L to begin, L at the end, and L to start cold.
    """
    jaxopt = import_jaxopt()

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
        flat, unravel = ravel_pytree(hold_ends(flow, observation, y_observed, x_hidden, start))

        def defect(flat: jax.Array) -> jax.Array:
            return flat - ravel_pytree(sweep(flow, params, observation, unravel(flat)))[0]

        # jaxopt stops on the 2-norm of the stack's defect, which bounds neither the residual nor is bounded by it: aim below
        method = jaxopt.Broyden(
            defect, maxiter=max_steps, tol=0.3 * limit, stepsize=1.0, history_size=history, implicit_diff=False
        )
        with jax.default_matmul_precision("highest"):
            found, state = method.run(flat)
            found = jnp.where(jnp.all(jnp.isfinite(found)), found, flat)
            stack = unravel(found)
            y = observation.restore(stack.first, y_observed)
            x = flow.encode(params, y)
        residual = constraint_residual(flow, observation, x, x_hidden)
        evaluations = flow.bijector.blocks * (2 * state.num_fun_eval.astype(jnp.int32) + 1 + int(cold))
        info = SolveInfo(residual, state.iter_num.astype(jnp.int32), residual <= limit, evaluations)
        return Solution(y, x, Stack(y, stack.path, x)), info

    return solve
