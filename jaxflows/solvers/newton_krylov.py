"""Newton's method on the constraint, its linear systems solved by GMRES (IVCNF Sec. 3.2).

In the data, with y = y_observed + P_H y, the unknown is P_H y:

    F(y) = P_H (g(y) - x_hidden) = 0,        Newton step  -(G^HH)^{-1} F.

In the latent, with x = P_O x + x_hidden, the unknown is P_O x, as the paper has it:

    F(x) = P_O (f(x) - y_observed) = 0,      Newton step  -(J^OO)^{-1} F,    J = G^{-1},

where (J^OO)^{-1} is found by GMRES on products with J (each an inner solve with G, unless the flow's inverse is explicit),
plainly or preconditioned by G^OO, or by the Schur complement identity (Eq. 5), which needs products with G alone:

    (J^OO)^{-1} = G^OO - G^OH (G^HH)^{-1} G^HO.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo, carried
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
from jaxflows.solvers.krylov import LinearMap, gmres, restricted
from jaxflows.solvers.largest import largest
from jaxflows.solvers.stack_inversion import invert_stack

FORMS = ("data", "latent", "latent_preconditioned", "latent_schur")
HALVINGS = 8


class _Point(NamedTuple):
    """A Newton iterate: the unknown, the stack it gives, F there, and the true constraint residual."""

    unknown: jax.Array
    stack: Stack
    defect: jax.Array
    residual: jax.Array


class _State(NamedTuple):
    point: _Point
    steps: jax.Array
    evaluations: jax.Array
    moving: jax.Array


@factory
def newton_krylov(
    *,
    form: str = "data",
    tol: float | None = None,
    max_steps: int = 30,
    forcing: float = 1e-2,
    restart: int = 20,
    max_restarts: int = 5,
) -> ConstraintSolver:
    """Newton-Krylov with a backtracking line search on |F|.

    The solver that still works where the sweep and the paper's alternating map do not contract: it needs only that the
    sub-Jacobian is regular on the way. Where it is singular the solve stops at the best point and says so.

    Args:
        form: 'data'; or the paper's 'latent', 'latent_preconditioned' (by G^OO) or 'latent_schur' (Eq. 5).
        tol: constraint residual accepted; 1e-4 in float32 and 1e-10 in float64 when None.
        max_steps: Newton steps at most.
        forcing: relative residual asked of each linear solve (inexact Newton).
        restart: Krylov dimension between restarts.
        max_restarts: restarts a linear solve at most.

    Returns:
        A `ConstraintSolver`, in the data preconditioned by the ``inverse`` it is given. Cost of a step in the data: 2L
        block evaluations a Krylov vector, L the linearisation and L a trial of the line search. In the latent a trial is
        an inversion of the flow, and without the Schur identity each Krylov vector is a GMRES solve. GMRES is counted from
        above, in whole cycles.

    Raises:
        ValueError: an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"expected form to be one of {FORMS}; got {form!r}")
    solve_linear = functools.partial(gmres, tol=forcing, restart=restart, max_restarts=max_restarts)

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
        problem = (flow, params, observation, y_observed, x_hidden)
        with jax.default_matmul_precision("highest"):
            if form == "data":
                evaluate, first, spent = _in_data(*problem, start)
                preconditioned = functools.partial(solve_linear, preconditioner=inverse)
                direction = functools.partial(_data_direction, flow, params, observation, preconditioned)
            else:
                evaluate, first, spent = _in_latent(*problem, start, limit)
                direction = functools.partial(_latent_direction, flow, params, observation, solve_linear, form)
            state = _newton(evaluate, direction, first, spent, limit, max_steps)
        point = state.point
        y = observation.restore(point.stack.first, y_observed)
        info = SolveInfo(point.residual, state.steps, point.residual <= limit, state.evaluations)
        return Solution(y, point.stack.last, point.stack._replace(first=y)), info

    return solve


def _newton(
    evaluate: Callable[[jax.Array, Stack], tuple[_Point, jax.Array]],
    direction: Callable[[_Point], tuple[jax.Array, jax.Array]],
    first: _Point,
    spent: jax.Array,
    limit: float,
    max_steps: int,
) -> _State:
    """Damped Newton: the step is halved until |F| falls; when it will not, the iterate stands and the solve ends."""

    def size(point: _Point) -> jax.Array:
        total = jnp.sqrt(jnp.sum(point.defect**2))
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    def step(state: _State) -> _State:
        here = size(state.point)
        move, cost = direction(state.point)

        def refused(carry: tuple[jax.Array, _Point, jax.Array, jax.Array]) -> jax.Array:
            scale, trial, halvings, _ = carry
            accepted = (size(trial) <= (1 - 1e-4 * scale) * here) & jnp.isfinite(here)
            return (halvings < 0) | (~accepted & (halvings < HALVINGS))

        def halve(carry: tuple[jax.Array, _Point, jax.Array, jax.Array]) -> tuple[Any, ...]:
            scale, _, halvings, cost = carry
            trial, price = evaluate(state.point.unknown + 0.5 * scale * move, state.point.stack)
            return 0.5 * scale, trial, halvings + 1, cost + price

        # the whole step is the loop's first trial: evaluated before it, it would be compiled twice
        start = (jnp.full_like(here, 2.0), state.point, jnp.full((), -1, jnp.int32), cost)
        _, trial, _, cost = jax.lax.while_loop(refused, halve, start)
        better = size(trial) < here
        point = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, state.point)
        return _State(point, state.steps + 1, state.evaluations + cost, better)

    def unfinished(state: _State) -> jax.Array:
        return (state.point.residual > limit) & (state.steps < max_steps) & state.moving

    start = _State(first, jnp.zeros((), jnp.int32), jnp.asarray(spent, jnp.int32), jnp.isfinite(size(first)))
    return jax.lax.while_loop(unfinished, step, start)


def _finite(v: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(v), v, 0.0)


def _in_data(
    flow: Flow, params: Params, observation: Observation, y_observed: jax.Array, x_hidden: jax.Array, start: Stack | None
) -> tuple[Callable[..., tuple[_Point, jax.Array]], _Point, jax.Array]:
    target = flow.bijector.move_back(x_hidden)

    def evaluate(y: jax.Array, stack: Stack | None) -> tuple[_Point, jax.Array]:
        del stack
        y = observation.restore(y, y_observed)
        stack = trace(flow, params, y)
        defect = observation.hidden_part(flow.bijector.move_back(stack.last) - target)
        return _Point(y, stack, defect, largest(defect)), jnp.asarray(flow.bijector.blocks, jnp.int32)

    guess = y_observed if start is None else observation.restore(_finite(start.first), y_observed)
    return evaluate, *evaluate(guess, None)


def _data_direction(
    flow: Flow, params: Params, observation: Observation, solve_linear: Callable[..., Any], point: _Point
) -> tuple[jax.Array, jax.Array]:
    forward, _ = restricted(flow, params, observation, point.stack.first)
    step, info = solve_linear(forward, point.defect)
    return -observation.hidden_part(step), flow.bijector.blocks * (1 + 2 * info.evaluations)


def _in_latent(
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    x_hidden: jax.Array,
    start: Stack | None,
    limit: float,
) -> tuple[Callable[..., tuple[_Point, jax.Array]], _Point, jax.Array]:
    latent = carried(flow.bijector, observation)
    blocks = flow.bijector.blocks

    def evaluate(x: jax.Array, stack: Stack) -> tuple[_Point, jax.Array]:
        found, info = invert_stack(flow, params, x, stack, tol=0.1 * limit)
        defect = observation.observed_part(found.first - y_observed)
        completed = trace(flow, params, observation.restore(found.first, y_observed))
        residual = constraint_residual(flow, observation, completed.last, x_hidden)
        return _Point(x, completed, defect, residual), info.evaluations + blocks

    stack = trace(flow, params, y_observed) if start is None else jax.tree.map(_finite, start)
    x = stack.last - latent.hidden_part(stack.last - x_hidden)
    first, spent = evaluate(x, stack)
    return evaluate, first, spent + (blocks if start is None else 0)


def _latent_direction(
    flow: Flow,
    params: Params,
    observation: Observation,
    solve_linear: Callable[..., Any],
    form: str,
    point: _Point,
) -> tuple[jax.Array, jax.Array]:
    bijector = flow.bijector

    def encode(y: jax.Array) -> jax.Array:
        return bijector.move_back(flow.encode(params, y))

    product = 2 * bijector.blocks
    if form == "latent" and bijector.explicit:
        j = jax.linearize(lambda x: flow.decode(params, x)[0], point.unknown)[1]

        def j_of_observed(u: jax.Array) -> jax.Array:
            seen = observation.observed_part(u)
            return observation.observed_part(j(bijector.move(seen))) + u - seen

        step, info = solve_linear(j_of_observed, point.defect)
        return -bijector.move(observation.observed_part(step)), bijector.blocks + product * info.evaluations
    g = jax.linearize(encode, point.stack.first)[1]
    if form == "latent_schur":
        step, cost = _schur(g, observation, solve_linear, point.defect)
        return -bijector.move(step), bijector.blocks + product * cost

    def inner_solve(operator: LinearMap, b: jax.Array) -> jax.Array:
        return solve_linear(operator, b)[0]

    def j_observed(u: jax.Array) -> jax.Array:
        seen = observation.observed_part(u)
        # as a linear solve that knows its transpose, which the outer GMRES asks of every operator
        solved = jax.lax.custom_linear_solve(g, seen, solve=inner_solve, transpose_solve=inner_solve)
        return observation.observed_part(solved) + u - seen

    def g_observed(u: jax.Array) -> jax.Array:
        seen = observation.observed_part(u)
        return observation.observed_part(g(seen)) + u - seen

    preconditioner = g_observed if form == "latent_preconditioned" else None
    step, info = solve_linear(j_observed, point.defect, preconditioner=preconditioner)
    # one inner solve tells what the others cost: they share the matrix and the forcing
    _, inner = solve_linear(g, point.defect)
    each = inner.evaluations + (1 if preconditioner else 0)
    cost = inner.evaluations + info.evaluations * each
    return -bijector.move(observation.observed_part(step)), bijector.blocks + product * cost


def _schur(
    g: LinearMap, observation: Observation, solve_linear: Callable[..., Any], defect: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(J^OO)^{-1} r by Eq. 5, and the products with G it took."""

    def g_hidden(u: jax.Array) -> jax.Array:
        hidden = observation.hidden_part(u)
        return observation.hidden_part(g(hidden)) + u - hidden

    image = g(defect)
    inner, info = solve_linear(g_hidden, observation.hidden_part(image))
    return observation.observed_part(image - g(observation.hidden_part(inner))), info.evaluations + 2
