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
from tests.solvers.problems import FLOWS, SIZE, assert_solves, parameters, problem, singular_parameters, true_residual

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
# in float64 inner inversions must be more exact than what is asked of the whole
DOUBLE = {"alternating": 1e-12, "alternating_anderson": 1e-12}

# solvers whose parts are seen on both kinds of flow anyway: on the one that is quicker to compile
VARIANTS = {"boundary_sweep_plain", "alternating_decode", "newton_krylov_latent", "robust"}
# plain in one test and preconditioned in the other, Newton in the latent runs all of its lines in both
ALONE = sorted(set(SOLVERS) - {"newton_krylov_latent_preconditioned"})
IN_BATCHES = sorted(set(SOLVERS) - {"newton_krylov_latent"})


@pytest.mark.parametrize("name", ALONE)
def test_solves_and_reports_its_true_residual_and_a_start_at_the_solution_stays_there_for_less(name):
    flow = "residual" if name in VARIANTS else "implicit"
    run = jax.jit(functools.partial(SOLVERS[name](), FLOWS[flow]()))
    solution, cold = assert_solves(run, flow, "linear", "float32", 1e-4, cold=False)
    _, params, observation, y_observed, x_hidden = problem(flow, "linear")
    again, warm = run(params, observation, y_observed, x_hidden, solution.stack)
    assert bool(warm.converged)
    assert int(warm.evaluations) < int(cold.evaluations)
    assert int(warm.steps) <= 1
    np.testing.assert_allclose(again.y, solution.y, atol=5e-4)


@functools.cache
def batch_program(name):
    """``(params, observed, y, x) -> (solution, info)`` on rows in float64, each with its own mask, from a cold start."""
    inner = {"inner_tol": DOUBLE[name]} if name in DOUBLE else {}
    solve, flow = SOLVERS[name](**inner), FLOWS["residual"]()

    def row(params, observed, y, x):
        return solve(flow, params, mask(observed), jnp.where(observed, y, 0.0), x, None)

    return jax.jit(jax.vmap(row, in_axes=(None, 0, 0, 0)))


ROWS = 4


@functools.cache
def rows():
    """Masks that hide more and less, rows and latents: a problem each, but for the last, whose observed part is not finite."""
    rng = np.random.default_rng(7)
    masks = rng.random((ROWS, SIZE)) < np.array([[0.2], [0.5], [0.8], [0.5]])
    ys, xs = rng.standard_normal((2, ROWS, SIZE))
    ys[-1, np.argmax(masks[-1])] = np.nan
    return masks, ys, xs


@functools.cache
def solved_rows(name):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, batch_program(name)(parameters("residual", "float64"), *rows()))


@pytest.mark.parametrize("name", IN_BATCHES)
def test_a_batch_of_masks_is_solved_to_1e_10_in_float64_but_for_a_row_with_an_observed_nan(name):
    (solution, info), (reference, _) = solved_rows(name), solved_rows("newton_krylov_data")
    np.testing.assert_array_equal(info.converged, [True, True, True, False])
    assert info.residual[-1] == np.inf
    assert solution.y.dtype == np.float64
    with jax.enable_x64(True):
        params = parameters("residual", "float64")
        for i, (observed, y, x) in enumerate(zip(*(part[:-1] for part in rows()), strict=True)):
            residual = true_residual("residual", params, mask(jnp.asarray(observed)), solution.y[i], jnp.asarray(x))
            assert residual <= 1e-10
            assert abs(info.residual[i] - residual) <= 20 * np.finfo(float).eps
            np.testing.assert_array_equal(solution.y[i][observed], y[observed])
            np.testing.assert_allclose(solution.y[i], reference.y[i], atol=1e-8)


@pytest.mark.parametrize("name", IN_BATCHES)
def test_a_row_gives_the_same_whatever_is_beside_it(name):
    batch, report = solved_rows(name)
    with jax.enable_x64(True):
        for i in range(ROWS - 1):
            copies = (np.broadcast_to(part[i], (ROWS, SIZE)) for part in rows())
            alone, info = batch_program(name)(parameters("residual", "float64"), *copies)
            np.testing.assert_allclose(alone.y, np.broadcast_to(batch.y[i], (ROWS, SIZE)), atol=1e-8)
            np.testing.assert_array_equal(info.steps, report.steps[i])
            np.testing.assert_array_equal(info.evaluations, report.evaluations[i])


@pytest.mark.parametrize("name", IN_BATCHES)
def test_reports_a_singular_restricted_jacobian(name):
    where = np.arange(SIZE)
    row = where != 1, np.where(where == 0, 0.7, 0.0), np.where(where == 1, -1.3, 0.0)
    with jax.enable_x64(True):
        copies = (np.broadcast_to(part, (ROWS, SIZE)) for part in row)
        solution, info = jax.tree.map(np.asarray, batch_program(name)(singular_parameters(), *copies))
    assert not info.converged.any()
    assert np.all(info.residual > 1e-2)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(solution))
    assert np.all(info.evaluations > 0)


def test_the_chord_method_with_the_exact_inverse_of_an_affine_map_is_done_in_one_step():
    flow, params = linear_flow(6, seed=0)

    @jax.jit
    def reports(observed, y, x):
        where = hidden(mask(observed), 3)
        inverse = inverse_at_anchor(where, gauss_newton_reference(flow, params, where, y))
        newton = functools.partial(newton_krylov(), flow, params, where.observation, y, x, None)
        return chord()(flow, params, where.observation, y, x, None, inverse)[1], newton()[1], newton(inverse)[1]

    observed = jnp.arange(6) % 2 == 0
    info, without, preconditioned = reports(observed, jnp.where(observed, 0.7, 0.0), jnp.ones(6))
    assert bool(info.converged)
    # the start, the solution, and the check at the end
    assert int(info.evaluations) == 3 * flow.bijector.blocks
    assert bool(preconditioned.converged)
    assert int(preconditioned.evaluations) <= int(without.evaluations)


def test_newton_in_the_latent_takes_products_with_an_explicit_inverse():
    flow = flows.flow_of((4,), chain(actnorm(over="element"), actnorm(over="event")))
    params = jax.tree.map(lambda leaf: leaf + 0.3, flow.init(jax.random.key(0)))
    observation = mask(jnp.array([True, False, True, False]))
    y, x = jnp.array([0.5, 0.0, -1.0, 0.0]), jnp.ones(4)
    solution, info = jax.jit(functools.partial(newton_krylov(form="latent"), flow))(params, observation, y, x)
    assert bool(info.converged)
    np.testing.assert_allclose(flow.encode(params, solution.y)[1::2], 1.0, atol=1e-4)
    np.testing.assert_allclose(solution.y[::2], y[::2])
