"""A solver with a fallback: the rows that the first one leaves unconverged are given to the second."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.chord import chord
from jaxflows.solvers.equation import ConstraintSolver, Solution, Stack
from jaxflows.solvers.newton_krylov import newton_krylov


@factory
def robust(
    *, first: ConstraintSolver | None = None, fallback: ConstraintSolver | None = None, go_on: bool = True
) -> ConstraintSolver:
    """``first``, then ``fallback`` where it did not converge.

    Under `jax.vmap` the choice is made row by row: a batch whose rows all converged runs no fallback at all, and in a batch
    with a failure the converged rows keep their answers. A row that neither solved is returned with the smaller residual
    of the two and ``converged`` False.

    Args:
        first: the solver to try first; `boundary_sweep()` when None.
        fallback: the solver for what is left; `newton_krylov()` when None.
        go_on: begin the fallback at the best point of the first, rather than at the first's own start.

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
        inverse: Partial | None = None,
    ) -> tuple[Solution, SolveInfo]:
        solution, info = attempt(flow, params, observation, y_observed, x_hidden, start, inverse)

        # a loop of at most one turn, not a cond: under vmap a cond becomes a select that runs both branches for every row
        def failed(carry: tuple[Solution, SolveInfo, jax.Array]) -> jax.Array:
            _, info, tried = carry
            return ~info.converged & ~tried

        def try_again(carry: tuple[Solution, SolveInfo, jax.Array]) -> tuple[Solution, SolveInfo, jax.Array]:
            solution, info, _ = carry
            begin = solution.stack if go_on else start
            second, report = rescue(flow, params, observation, y_observed, x_hidden, begin, inverse)
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


def quick_solver(anchored: bool) -> ConstraintSolver:
    """The solver to try first on draws of a posterior.

    Args:
        anchored: whether the solver is given the inverse of a linearisation near the solution, which the chord method shares
            among all draws (fewer evaluations than the sweep, and no contraction asked); else the sweep.
    """
    return chord() if anchored else boundary_sweep()


def thorough_solver(flow: Flow, anchored: bool) -> ConstraintSolver:
    """`quick_solver` with the fallback that suits the flow: Newton in the latent where its inverse is explicit."""
    first = quick_solver(anchored)
    if flow.bijector.explicit:
        return robust(first=first, fallback=newton_krylov(form="latent"), go_on=False)
    return robust(first=robust(first=first, fallback=boundary_sweep()) if anchored else first)
