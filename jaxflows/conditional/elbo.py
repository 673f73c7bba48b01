"""The bound on log p(y_observed) and its gradient (IVCNF Secs. 3.1 and 3.4).

With y the solution for x_hidden ~ q,

    L(q) = E_q[ log p0(x) + log|det G(y)| - log|det G^HH(y)| - log q(x_hidden) ]          (Eqs. 2, 3 and 6)
         = E_q[ log p(y) - log q(y_hidden) ]  <=  log p(y_observed).

Values take the log-determinants exactly, by the K hidden columns of G. Gradients need only traces:

    CLADE   d log|det G| by the flow's own estimator, d log|det G^HH| = E[ w^T dG v ],  w = (G^HH)^{-T} v, v in H
    NLADE   -d log|det J^OO| = E[ l^T dG r ],  l = v - (G^HH)^{-T} (G^OH)^T v,  r = G^{-1} v,  v in O   (Eq. 7)

The left factor of NLADE follows from (J^OO)^{-1} J^OH = -G^OH (G^HH)^{-1}: no product with J is needed on that side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo, carried
from jaxflows.conditional.constraint import solve_with_stack
from jaxflows.conditional.gauss_newton import Reference
from jaxflows.conditional.hidden import Hidden, hidden_block, hidden_columns
from jaxflows.conditional.posteriors import Posterior
from jaxflows.factory import factory
from jaxflows.flows import Flow, standard_normal_log_prob
from jaxflows.for_each_key import for_each_key
from jaxflows.log_det.estimators import Estimator, power_series
from jaxflows.observation import mask
from jaxflows.precision import full_precision
from jaxflows.recomputation import kept
from jaxflows.solvers.equation import ConstraintSolver, Solution, Stack, constraint_residual, trace
from jaxflows.solvers.krylov import restricted, solve_restricted

# relative residual of the linear solves behind a stochastic gradient: far below the scatter of probes and draws
STOCHASTIC_TOL = 1e-3

# columns of a whole Jacobian computed together at least: more take more memory, where few entries are hidden
COLUMNS_AT_ONCE = 64


class Inverses(NamedTuple):
    """Approximate inverses that precondition an estimator's solves.

    Attributes:
        hidden: of G^HH, as in `jaxflows.solvers.equation.ConstraintSolver`.
        whole: of G, from an event to an event; None where nothing is solved with G, the flow's inverse being explicit.
    """

    hidden: Partial
    whole: Partial | None


GradientEstimator = Callable[[jax.Array, Flow, Params, Hidden, jax.Array, Inverses | None], jax.Array]
"""``(key, flow, params, where, y, inverses) -> scalar`` whose gradient in params and y estimates that of
log|det G(y)| - log|det G^HH(y)|; its value means nothing, except for `exact`."""


class Draw(NamedTuple):
    """One draw from q.

    Attributes:
        eta: (K,) in the reference's coordinates.
        solution: the solved constraint.
        info: the solver's report.
        log_weight: log p(y) - log q(y_hidden), whose mean is the bound; of no meaning where the solver did not converge.
    """

    eta: jax.Array
    solution: Solution
    info: SolveInfo
    log_weight: jax.Array


@full_precision
def hidden_log_det(flow: Flow, params: Params, where: Hidden, y: jax.Array) -> jax.Array:
    """log|det G^HH(y)|, exactly. Cost: K JVPs and a K x K factorisation."""
    _, columns = hidden_columns(flow, params, where, y)
    return jnp.linalg.slogdet(hidden_block(where, columns))[1]


@full_precision
def log_det_gap(flow: Flow, params: Params, where: Hidden, y: jax.Array) -> jax.Array:
    """log|det G(y)| - log|det G^HH(y)| = -log|det J^OO|, exactly. Cost: `hidden_log_det` and the flow's own, exact."""
    return flow.bijector.forward(params, y)[1] - hidden_log_det(flow, params, where, y)


@factory
def exact() -> GradientEstimator:
    """The exact value and gradient, by differentiating the factorisations: for small d, and for tests."""

    def estimate(
        key: jax.Array, flow: Flow, params: Params, where: Hidden, y: jax.Array, inverses: Inverses | None = None
    ) -> jax.Array:
        del key, inverses
        return log_det_gap(flow, params, where, y)

    return estimate


def _mean_over_probes(key: jax.Array, probes: int, one: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return jnp.mean(for_each_key(one, key, probes))


def _directional(flow: Flow, params: Params, y: jax.Array, direction: jax.Array) -> jax.Array:
    """G(y) direction, moved back to event coordinates, differentiable in params and y; in the precision that JAX is set to."""

    def encode(t: jax.Array) -> jax.Array:
        return flow.bijector.move_back(flow.bijector.transform(params, t))

    return jax.jvp(encode, (y,), (direction,))[1]


@factory
def clade(*, probes: int = 1, log_det: Estimator | None = None) -> GradientEstimator:
    """The corrected LAD gradient estimator (IVCNF Eq. 6).

    Args:
        probes: Hutchinson probes, each with its own GMRES solve.
        log_det: estimator of log|det G|; the power series of 8 terms and as many probes when None.

    Low variance when few entries are hidden, or when the flow's own log-determinant is exact.
    """
    inner = power_series(terms=8, probes=probes) if log_det is None else log_det

    def estimate(
        key: jax.Array, flow: Flow, params: Params, where: Hidden, y: jax.Array, inverses: Inverses | None = None
    ) -> jax.Array:
        k_own, k_probe = jax.random.split(key)
        _, own = flow.bijector.estimate(k_own, inner, params, y)
        observation = where.observation

        def one(k: jax.Array) -> jax.Array:
            v = observation.hidden_part(jax.random.rademacher(k, y.shape, y.dtype))
            p, point = jax.lax.stop_gradient((params, y))
            inverse = None if inverses is None else inverses.hidden
            w, _ = solve_restricted(flow, p, observation, point, v, transpose=True, inverse=inverse, tol=STOCHASTIC_TOL)
            return jnp.vdot(kept(jax.lax.stop_gradient(w)), _directional(flow, params, y, v))

        return own.value - _mean_over_probes(k_probe, probes, one)

    return estimate


@factory
def nlade(*, probes: int = 1) -> GradientEstimator:
    """The natural LAD gradient estimator (IVCNF Eq. 7).

    Args:
        probes: Hutchinson probes, each with two GMRES solves.

    Least error at equal time where it was measured (benchmarks/gradient_estimators.py), and the less the fewer entries are
    observed; needs no estimator of the flow's own log-determinant.
    """

    def estimate(
        key: jax.Array, flow: Flow, params: Params, where: Hidden, y: jax.Array, inverses: Inverses | None = None
    ) -> jax.Array:
        observation = where.observation
        p, point = jax.lax.stop_gradient((params, y))
        nothing = mask(jnp.zeros(y.shape, bool))

        def one(k: jax.Array) -> jax.Array:
            v = observation.observed_part(jax.random.rademacher(k, y.shape, y.dtype))
            _, pull = restricted(flow, p, nothing, point)
            hidden_inverse, whole_inverse = (None, None) if inverses is None else inverses
            correction, _ = solve_restricted(
                flow, p, observation, point, pull(v), transpose=True, inverse=hidden_inverse, tol=STOCHASTIC_TOL
            )
            left = v - correction
            if flow.bijector.explicit:
                right = jax.jvp(lambda x: flow.decode(p, x)[0], (flow.encode(p, point),), (flow.bijector.move(v),))[1]
            else:
                right, _ = solve_restricted(flow, p, nothing, point, v, inverse=whole_inverse, tol=STOCHASTIC_TOL)
            left, right = kept(jax.lax.stop_gradient((left, right)))
            return jnp.vdot(left, _directional(flow, params, y, right))

        return _mean_over_probes(key, probes, one)

    return estimate


ESTIMATORS: dict[str, Callable[[], GradientEstimator]] = {"clade": clade, "nlade": nlade, "exact": exact}


def gradient_estimator(choice: str | GradientEstimator) -> GradientEstimator:
    """Look an estimator up by name; one made by a factory passes through."""
    if callable(choice):
        return choice
    if choice not in ESTIMATORS:
        raise ValueError(f"expected an estimator of {sorted(ESTIMATORS)}, or one made by its factory; got {choice!r}")
    return ESTIMATORS[choice]()


def _apply_inverse(where: Hidden, inverse: jax.Array, v: jax.Array) -> jax.Array:
    return where.expand(inverse @ where.compress(v))


def inverse_at_anchor(where: Hidden, start: Reference) -> Partial:
    """The approximate inverse of the hidden block that solvers and estimators take, from the reference's own."""
    return Partial(_apply_inverse, where, jax.lax.stop_gradient(start.inverse))


def _apply_whole(inverse: jax.Array, v: jax.Array) -> jax.Array:
    return (inverse @ v.reshape(-1)).reshape(v.shape)


def inverses_at_anchor(flow: Flow, params: Params, where: Hidden, start: Reference) -> Inverses:
    """What preconditions an estimator's solves for all draws of a row.

    Cost: without an explicit inverse d JVPs of ``encode``, some K at a time, and a d x d inverse.
    """
    if flow.bijector.explicit:
        return Inverses(inverse_at_anchor(where, start), None)

    def column(axis: jax.Array) -> jax.Array:
        return _directional(flow, params, start.anchor, axis.reshape(flow.event_shape)).reshape(-1)

    at_once = max(COLUMNS_AT_ONCE, where.slots.size)
    rows = jax.lax.map(column, jnp.eye(flow.size, dtype=start.anchor.dtype), batch_size=min(at_once, flow.size))
    inverse = jnp.linalg.inv(rows.T)
    # of a Jacobian that overflowed or is singular there is none, and no preconditioner is a right one too
    inverse = jnp.where(jnp.all(jnp.isfinite(inverse)), inverse, jnp.eye(flow.size, dtype=inverse.dtype))
    return Inverses(inverse_at_anchor(where, start), Partial(_apply_whole, inverse))


def _predicted(
    eta: jax.Array, x_hidden: jax.Array, params: Params, where: Hidden, y_observed: jax.Array, start: Reference, flow: Flow
) -> tuple[Stack, int]:
    """The stack from which a draw's solve starts, the event predicted to first order in the data, and the passes it took.

    Far from the anchor that may lie where the flow explodes. A flow with an explicit inverse also predicts in the latent,
    where its normals stay normal, and takes what comes nearer to the constraint.
    """
    in_data = trace(flow, params, start.anchor + where.expand(start.spread @ eta))
    if not flow.bijector.explicit:
        return in_data, 1
    observation = where.observation
    latent = carried(flow.bijector, observation)
    x = flow.encode(params, start.anchor)
    y, _ = flow.decode(params, x - latent.hidden_part(x - x_hidden))
    pasted = flow.encode(params, observation.restore(y, y_observed))
    nearer = constraint_residual(flow, observation, pasted, x_hidden) < constraint_residual(
        flow, observation, in_data.last, x_hidden
    )
    return jax.tree.map(lambda a, b: jnp.where(nearer, a, b), trace(flow, params, y), in_data), 5


@full_precision
def draw(
    eps: jax.Array,
    flow: Flow,
    params: Params,
    where: Hidden,
    y_observed: jax.Array,
    posterior: Posterior,
    theta: Any,
    start: Reference,
    solver: ConstraintSolver,
    log_det: Callable[[jax.Array], jax.Array],
    path_derivative: bool = True,
    linear_tol: float | None = None,
) -> Draw:
    """One draw from q, its solved constraint and its log-weight, differentiable in theta and params.

    Args:
        eps: (K,) standard normal.
        flow, params: the flow, in the frame of ``start`` (`jaxflows.conditional.partition.framed`).
        where, y_observed: the observation.
        posterior, theta, start: q.
        solver: a `ConstraintSolver`.
        log_det: ``y -> log|det G(y)| - log|det G^HH(y)|``, exact or a surrogate with the right gradient.
        path_derivative: hold theta fixed inside log q (Roeder et al. 2017), so that the gradient's variance vanishes as q
            reaches the posterior; the bound's gradient is the same in expectation.
        linear_tol: as in `jaxflows.conditional.constraint.solve_with_stack`.
    """
    eta = posterior.transform(theta, where.used, jnp.where(where.used, eps, 0.0))
    x_hidden = flow.bijector.move(where.expand(start.mean + start.scale @ eta))
    warm, passes = _predicted(*jax.lax.stop_gradient((eta, x_hidden, params, where, y_observed, start)), flow)
    solution, info = solve_with_stack(
        flow, params, where.observation, y_observed, x_hidden, solver=solver, start=warm,
        inverse=inverse_at_anchor(where, start), linear_tol=linear_tol,
    )  # fmt: skip
    info = info._replace(evaluations=info.evaluations + passes * flow.bijector.blocks)
    # what was left unsolved may lie anywhere: at the anchor its weight is finite, and its solves do not hold up the batch
    y = jnp.where(info.converged, solution.y, start.anchor)
    held = jax.lax.stop_gradient(theta) if path_derivative else theta
    log_q = posterior.log_prob(held, where.used, eta) - start.log_det
    log_weight = standard_normal_log_prob(flow.encode(params, y)) + log_det(y) - log_q
    return Draw(eta, solution, info, log_weight)
