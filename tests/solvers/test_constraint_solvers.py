"""Every constraint solver on every kind of problem: one equation, one signature, one answer."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.solvers.alternating import alternating
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.broyden import broyden
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


@every_solver
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
