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
from tests.solvers.problems import FLOWS, SIZE, assert_solves, parameters, problem, singular_parameters

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
every_solver = pytest.mark.parametrize("name", sorted(SOLVERS))
# in float64 inner inversions must be more exact than what is asked of the whole
DOUBLE = {"alternating": 1e-12, "alternating_anderson": 1e-12}


def _solve(name, flow, dtype):
    inner = {"inner_tol": DOUBLE[name]} if dtype == "float64" and name in DOUBLE else {}
    return functools.partial(SOLVERS[name](**inner), FLOWS[flow]())


@functools.cache
def program(name, flow, dtype):
    """``(params, observation, y_observed, x_hidden, start)``: a solver on a flow, compiled once for all that follows."""
    return jax.jit(_solve(name, flow, dtype))


# the variants of a solver differ in what this covers only by their linear algebra: one flow each
VARIANTS = {"boundary_sweep_plain", "alternating_decode", "newton_krylov_latent", "newton_krylov_latent_preconditioned"}


@every_solver
def test_solves_and_reports_its_true_residual_and_a_start_at_the_solution_stays_there_for_less(name):
    run = program(name, "residual", "float32")
    solution, cold = assert_solves(run, "residual", "linear", "float32", 1e-4, cold=False)
    _, params, observation, y_observed, x_hidden = problem("residual", "linear")
    again, warm = run(params, observation, y_observed, x_hidden, solution.stack)
    assert bool(warm.converged)
    assert int(warm.evaluations) < int(cold.evaluations)
    assert int(warm.steps) <= 1
    np.testing.assert_allclose(again.y, solution.y, atol=5e-4)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - VARIANTS))
def test_solves_where_layers_are_inverted_and_entries_move(name):
    assert_solves(program(name, "implicit", "float32"), "implicit", "mask", "float32", 1e-4)


@every_solver
def test_solves_to_1e_10_in_float64(name):
    with jax.enable_x64(True):
        solution, _ = assert_solves(program(name, "residual", "float64"), "residual", "mask", "float64", 1e-10)
        newton = program("newton_krylov_data", "residual", "float64")
        reference, _ = assert_solves(newton, "residual", "mask", "float64", 1e-10)
        np.testing.assert_allclose(solution.y, reference.y, atol=1e-8)


# the preconditioned form does all that the latent one does, and compiles as long
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"newton_krylov_latent"}))
def test_a_batch_of_masks_gives_what_each_row_gives_alone(name):
    with jax.enable_x64(True):
        params, rng = parameters("residual", "float64"), np.random.default_rng(7)
        masks = rng.random((3, SIZE)) < np.array([[0.2], [0.5], [0.8]])
        ys, xs = rng.standard_normal((2, 3, SIZE))
        solve = _solve(name, "residual", "float64")

        def row(observed, y, x):
            return solve(params, mask(observed), jnp.where(observed, y, 0.0), x, None)

        batch, report = jax.jit(jax.vmap(row))(masks, ys, xs)
        assert np.all(report.converged)
        run = program(name, "residual", "float64")
        for i, (observed, y, x) in enumerate(zip(masks, ys, xs, strict=True)):
            alone, info = run(params, mask(jnp.asarray(observed)), jnp.where(observed, y, 0.0), jnp.asarray(x), None)
            np.testing.assert_allclose(batch.y[i], alone.y, atol=1e-8)
            assert report.steps[i] == info.steps
            # a batched product rounds otherwise than a single one, and near rounding an inner inversion may take one
            # evaluation of every block more an outer step, or one less
            allowed = FLOWS["residual"]().bijector.blocks * int(info.steps) if name.startswith("alternating") else 0
            assert abs(int(report.evaluations[i]) - int(info.evaluations)) <= allowed


@every_solver
def test_reports_a_singular_restricted_jacobian(name):
    with jax.enable_x64(True):
        run, where = program(name, "residual", "float64"), np.arange(SIZE)
        y_observed, x_hidden = jnp.where(where == 0, 0.7, 0.0), jnp.where(where == 1, -1.3, 0.0)
        solution, info = run(singular_parameters(), mask(jnp.asarray(where != 1)), y_observed, x_hidden, None)
    assert not bool(info.converged)
    assert float(info.residual) > 1e-2
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(solution))
    assert int(info.evaluations) > 0


@every_solver
def test_an_observed_nan_is_reported(name):
    with jax.enable_x64(True):
        _, params, observation, y_observed, x_hidden = problem("residual", "mask", "float64")
        y_observed = y_observed.at[np.argmax(observation.observed)].set(np.nan)
        _, info = program(name, "residual", "float64")(params, observation, y_observed, x_hidden, None)
    assert not bool(info.converged)
    assert float(info.residual) == np.inf


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
