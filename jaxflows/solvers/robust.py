"""A solver with a fallback: the rows that the first one leaves unconverged are given to the second."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.equation import ConstraintSolver, Solution, Stack
from jaxflows.solvers.newton_krylov import newton_krylov


@factory
def robust(*, first: ConstraintSolver | None = None, fallback: ConstraintSolver | None = None) -> ConstraintSolver:
    """``first``, then ``fallback`` from its best point where it did not converge.

    Under `jax.vmap` the choice is made row by row: a batch whose rows all converged runs no fallback at all, and in a batch
    with a failure the converged rows keep their answers. A row that neither solved is returned with the smaller residual
    of the two and ``converged`` False.

    Args:
        first: the solver to try first; `boundary_sweep()` when None.
        fallback: the solver for what is left; `newton_krylov()` when None.

    Returns:
        A `ConstraintSolver`; steps and evaluations are the sums of both where both ran.
    """
    attempt = boundary_sweep() if first is None else first
    rescue = newton_krylov() if fallback is None else fallback

    def solve(
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
    ) -> tuple[Solution, SolveInfo]:
        solution, info = attempt(flow, params, observation, y_observed, x_hidden, start)

        # a loop of at most one turn, not a cond: under vmap a cond becomes a select that runs both branches for every row
        def failed(carry: tuple[Solution, SolveInfo, jax.Array]) -> jax.Array:
            _, info, tried = carry
            return ~info.converged & ~tried

        def try_again(carry: tuple[Solution, SolveInfo, jax.Array]) -> tuple[Solution, SolveInfo, jax.Array]:
            solution, info, _ = carry
            second, report = rescue(flow, params, observation, y_observed, x_hidden, solution.stack)
            better = report.residual < info.residual
            solution = jax.tree.map(lambda new, old: jnp.where(better, new, old), second, solution)
            info = SolveInfo(
                jnp.minimum(report.residual, info.residual),
                info.steps + report.steps,
                info.converged | report.converged,
                info.evaluations + report.evaluations,
            )
            return solution, info, jnp.ones((), bool)

        solution, info, _ = jax.lax.while_loop(failed, try_again, (solution, info, jnp.zeros((), bool)))
        return solution, info

    return solve
