"""Every constraint solver on every kind of problem: one equation, one signature, one answer."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import linear_flow
from jaxflows import flows
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain
from jaxflows.conditional.elbo import inverse_at_anchor
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.observation import mask
from jaxflows.solvers.alternating import alternating
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.broyden import broyden
from jaxflows.solvers.chord import chord
from jaxflows.solvers.newton_krylov import FORMS, newton_krylov
from jaxflows.solvers.robust import robust
from tests.solvers.problems import (
    assert_reports_failure,
    assert_rows_agree,
    assert_solves,
    jit,
    problem,
)

SOLVERS = {
    "boundary_sweep": boundary_sweep,
    "boundary_sweep_plain": functools.partial(boundary_sweep, history=0),
    "alternating": functools.partial(alternating, inner_tol=1e-6),
    "alternating_decode": alternating,
    "alternating_anderson": functools.partial(alternating, alpha=1.0, beta=1.0, history=5, inner_tol=1e-6),
    "broyden": broyden,
    "chord": chord,
    "robust": robust,
    **{f"newton_krylov_{form}": functools.partial(newton_krylov, form=form) for form in FORMS},
}
DOUBLE = {"alternating", "alternating_decode", "alternating_anderson"}
every_solver = pytest.mark.parametrize("name", sorted(SOLVERS))


# the variants of a solver differ in what this covers only by their linear algebra: one flow each
VARIANTS = {"boundary_sweep_plain", "alternating_decode", "newton_krylov_latent", "newton_krylov_latent_preconditioned"}
MATRIX = [
    (name, flow, kind)
    for name in sorted(SOLVERS)
    for flow, kind in (("residual", "linear"), ("implicit", "mask"), ("squeezed", "mask"))
    if name not in VARIANTS or flow == "residual"
]


@pytest.mark.parametrize(("name", "flow", "kind"), MATRIX)
def test_solves_and_reports_its_true_residual(name, flow, kind):
    assert_solves(SOLVERS[name](), flow, kind, "float32", 1e-4)


@every_solver
def test_solves_to_1e_10_in_float64(name):
    with jax.enable_x64(True):
        options = {"inner_tol": 1e-12} if name in DOUBLE else {}
        solution, _ = assert_solves(SOLVERS[name](**options), "residual", "mask", "float64", 1e-10)
        reference, _ = assert_solves(newton_krylov(), "residual", "mask", "float64", 1e-10)
        np.testing.assert_allclose(solution.y, reference.y, atol=1e-8)


# the preconditioned form does all that the latent one does, and compiles as long
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"newton_krylov_latent"}))
def test_a_batch_of_masks_gives_what_each_row_gives_alone(name):
    assert_rows_agree(SOLVERS[name](), "residual", nested=name.startswith("alternating"))


@every_solver
def test_reports_a_singular_restricted_jacobian(name):
    assert_reports_failure(SOLVERS[name]())


@every_solver
def test_an_observed_nan_is_reported(name):
    flow, params, observation, y_observed, x_hidden = problem("residual", "mask")
    y_observed = jnp.where(jnp.arange(8) == int(jnp.argmax(observation.observed)), jnp.nan, y_observed)
    _, info = jit(lambda *a: SOLVERS[name]()(flow, *a, None))(params, observation, y_observed, x_hidden)
    assert not bool(info.converged)
    assert float(info.residual) == np.inf


@every_solver
def test_a_start_at_the_solution_stays_there_for_less(name):
    flow, params, observation, y_observed, x_hidden = problem("residual", "mask")
    run = jit(lambda start: SOLVERS[name]()(flow, params, observation, y_observed, x_hidden, start))
    solution, cold = run(None)
    again, warm = run(solution.stack)
    assert bool(warm.converged)
    assert int(warm.evaluations) < int(cold.evaluations)
    assert int(warm.steps) <= 1
    np.testing.assert_allclose(again.y, solution.y, atol=5e-4)


def test_the_chord_method_with_the_exact_inverse_of_an_affine_map_is_done_in_one_step():
    flow, params = linear_flow(6, seed=0)
    where = hidden(mask(jnp.arange(6) % 2 == 0), 3)
    y, x = jnp.where(where.observation.observed, 0.7, 0.0), jnp.ones(6)
    start = gauss_newton_reference(flow, params, where, y)
    _, info = chord()(flow, params, where.observation, y, x, None, inverse_at_anchor(where, start))
    assert bool(info.converged)
    # the start, the solution, and the check at the end
    assert int(info.evaluations) == 3 * flow.bijector.blocks
    _, without = newton_krylov()(flow, params, where.observation, y, x)
    _, preconditioned = newton_krylov()(flow, params, where.observation, y, x, None, inverse_at_anchor(where, start))
    assert bool(preconditioned.converged)
    assert int(preconditioned.evaluations) <= int(without.evaluations)


def test_newton_in_the_latent_takes_products_with_an_explicit_inverse():
    flow = flows.flow_of((4,), chain(actnorm(over="element"), actnorm(over="event")))
    params = jax.tree.map(lambda leaf: leaf + 0.3, flow.init(jax.random.key(0)))
    observation = mask(jnp.array([True, False, True, False]))
    y, x = jnp.array([0.5, 0.0, -1.0, 0.0]), jnp.ones(4)
    solution, info = newton_krylov(form="latent")(flow, params, observation, y, x)
    assert bool(info.converged)
    np.testing.assert_allclose(flow.encode(params, solution.y)[1::2], 1.0, atol=1e-4)
    np.testing.assert_allclose(solution.y[::2], y[::2])
