"""Solve the equality constraint and differentiate through its solution (IVCNF Secs. 3.2 and 3.3).

With y the solution of P_O y = y_observed, P_H g(y; params) = x_hidden, and G = dg/dy, the implicit function theorem gives

    dy_hidden = (P_H G P_H)^{-1} ( dx_hidden - P_H G dy_observed - P_H dg/dparams dparams ).

One linear solve with the transpose, lambda = (P_H G P_H + P_O)^{-T} P_H y_bar, therefore gives every cotangent:

    x_hidden_bar = lambda,  y_observed_bar = P_O (y_bar - G^T lambda),  params_bar = -(dg/dparams)^T lambda.

Which solver found y is irrelevant to it. Only products with G are needed, never with J = G^{-1}.

The rule is split in two: `jax.custom_vjp` is put around lambda alone, as the derivative of y_hidden in the defect
r = P_H ( x_hidden - g(y_observed + y_hidden; params) ) with y_hidden held, and JAX derives the products above from r. Under
`vmap` the cotangent of parameters shared by a batch is then one matrix product with the batch summed inside; a rule that
returned it would write out a copy of all parameters per row first.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.flows import Flow, check_event
from jaxflows.observation import Observation
from jaxflows.precision import full_precision
from jaxflows.recomputation import kept
from jaxflows.solvers.equation import ConstraintSolver, Solution, Stack
from jaxflows.solvers.krylov import solve_restricted
from jaxflows.solvers.robust import robust


def solve(
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    x_hidden: jax.Array,
    *,
    solver: ConstraintSolver | None = None,
    start: Stack | None = None,
) -> tuple[jax.Array, SolveInfo]:
    """The event y with P_O y = y_observed and P_H g(y) = x_hidden, for ONE observation.

    Differentiable in params, y_observed and x_hidden; batch by `jax.vmap`.

    Args:
        flow: the flow, static.
        params: its parameters.
        observation: from `jaxflows.observe`.
        y_observed: (*event,), what was seen; its hidden part is ignored, so NaN is fine there.
        x_hidden: (*latent,), the free latent; its observed part is ignored.
        solver: a `ConstraintSolver`; the boundary sweep with a Newton-Krylov fallback when None.
        start: the stack of a nearby solution, to start warm.

    Returns:
        ``(y, info)``. For a mask the observed entries of y are bit-identical to y_observed.

    Raises:
        ValueError: shapes that differ from the flow's.

    Cost: forward, the solver's; backward, one GMRES solve on VJPs of ``encode``.
    """
    solution, info = solve_with_stack(flow, params, observation, y_observed, x_hidden, solver=solver, start=start)
    return solution.y, info


def solve_with_stack(
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    x_hidden: jax.Array,
    *,
    solver: ConstraintSolver | None = None,
    start: Stack | None = None,
    inverse: Partial | None = None,
    linear_tol: float | None = None,
) -> tuple[Solution, SolveInfo]:
    """As `solve`, returning the whole solution, whose latent and stack carry no gradient, and taking an approximate inverse.

    Args:
        linear_tol: relative residual of the linear solve behind the gradient; `linear_tolerance` when None.
    """
    check_event(flow, y_observed, "y_observed")
    if tuple(jnp.shape(x_hidden)) != flow.latent_shape:
        raise ValueError(f"expected x_hidden of shape {flow.latent_shape}; got {tuple(jnp.shape(x_hidden))}")
    known = observed_only(observation, y_observed)
    problem = jax.lax.stop_gradient((params, observation, known, x_hidden, start, inverse))
    solution, info = jax.lax.stop_gradient((robust() if solver is None else solver)(flow, *problem))
    solution = solution._replace(y=kept(solution.y))
    # y_observed reaches the defect, y_hidden does not: its derivative is what the defect's is turned into
    defect = flow.bijector.move_back(x_hidden - flow.encode(params, observation.restore(solution.y, known)))
    y = _settled(flow, linear_tol, problem[0], observation, solution.y, observation.hidden_part(defect), inverse)
    return solution._replace(y=observation.restore(y, known)), info


def observed_only(observation: Observation, y_observed: jax.Array) -> jax.Array:
    """P_O y_observed, with whatever stands in hidden entries (NaN too) left out of the arithmetic."""
    return observation.observed_part(y_observed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _settled(
    flow: Flow,
    linear_tol: float | None,
    params: Params,
    observation: Observation,
    y: jax.Array,
    defect: jax.Array,
    inverse: Partial | None,
) -> jax.Array:
    """y, with the derivative (P_H G P_H)^{-1} in the defect and none in anything else."""
    del flow, linear_tol, params, observation, defect, inverse
    return y


def _settled_fwd(flow: Flow, linear_tol: float | None, *arguments: Any) -> tuple[jax.Array, Any]:
    del flow, linear_tol
    params, observation, y, _, inverse = arguments
    return y, (params, observation, y, inverse)


@full_precision
def _settled_bwd(flow: Flow, linear_tol: float | None, saved: Any, y_bar: jax.Array) -> tuple[Any, ...]:
    params, observation, y, inverse = saved
    weights, _ = solve_restricted(flow, params, observation, y, y_bar, transpose=True, inverse=inverse, tol=linear_tol)
    # None is the cotangent zero of a whole argument
    return None, None, None, weights, None


_settled.defvjp(_settled_fwd, _settled_bwd)
