"""`conditional.constraint.solve`: what it returns, what it refuses, and its implicit gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxflows.conditional.constraint import solve, solve_with_stack
from jaxflows.observation import mask
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.newton_krylov import newton_krylov
from tests.solvers.problems import FLOWS, problem, true_residual

TIGHT = boundary_sweep(tol=1e-12)


@functools.cache
def program(name, solver=None):
    """``(params, observation, y_observed, x_hidden)``: a flow's constraint, compiled once for every mask."""
    return jax.jit(lambda *problem: solve(FLOWS[name](), *problem, solver=solver))


def test_observed_entries_are_bit_identical_and_hidden_nan_is_harmless():
    flow, params, observation, _, x_hidden = problem("residual", "mask")
    row = jnp.asarray(np.random.default_rng(0).standard_normal(flow.event_shape), jnp.float32)
    row = jnp.where(observation.observed, row, jnp.nan)
    y, info = program("residual")(params, observation, row, x_hidden)
    assert bool(info.converged)
    assert true_residual("residual", params, observation, y, x_hidden) <= 1e-4
    np.testing.assert_array_equal(np.asarray(y)[observation.observed], np.asarray(row)[observation.observed])


def test_an_observed_nan_does_not_converge():
    _, params, _, _, x_hidden = problem("residual", "mask")
    _, info = program("residual")(params, mask(jnp.arange(8) < 4), jnp.full(8, jnp.nan, jnp.float32), x_hidden)
    assert not bool(info.converged)


def test_everything_observed_returns_the_event():
    _, params, _, _, x_hidden = problem("residual", "mask")
    row = jnp.linspace(-1.0, 1.0, 8)
    y, info = program("residual")(params, mask(jnp.ones(8, bool)), row, x_hidden)
    np.testing.assert_array_equal(y, row)
    assert bool(info.converged)


@pytest.mark.parametrize("name", ["implicit", "residual"])
def test_nothing_observed_decodes_the_latent(name):
    flow, params, _, y, x_hidden = problem(name, "mask")
    run = program(name) if name == "residual" else program(name, boundary_sweep())
    found, info = run(params, mask(jnp.zeros(flow.event_shape, bool)), y, x_hidden)
    assert bool(info.converged)
    np.testing.assert_allclose(found, jax.jit(flow.decode)(params, x_hidden)[0], atol=5e-4)


def test_a_warm_start_sweeps_less_at_a_nearby_problem():
    flow, params, observation, y_observed, x_hidden = problem("residual", "mask")
    run = jax.jit(lambda x, s: solve_with_stack(flow, params, observation, y_observed, x, solver=boundary_sweep(), start=s))
    solution, cold = run(x_hidden, None)
    _, cold_again = run(x_hidden + 0.01, None)
    _, warm = run(x_hidden + 0.01, solution.stack)
    assert bool(warm.converged)
    assert int(warm.steps) < int(cold_again.steps)
    assert int(warm.evaluations) < int(cold.evaluations)


def test_shapes_are_checked():
    flow, params, observation, y_observed, x_hidden = problem("residual", "mask")
    with pytest.raises(ValueError, match=r"expected y_observed of shape \(8,\); got \(7,\)"):
        solve(flow, params, observation, y_observed[:7], x_hidden)
    with pytest.raises(ValueError, match=r"expected x_hidden of shape \(8,\); got \(2, 4\)"):
        solve(flow, params, observation, y_observed, x_hidden.reshape(2, 4))


def test_gradients_match_finite_differences():
    # of a linear measurement, through layers that are inverted and move the entries; masks are next
    with jax.enable_x64(True):
        flow, params, observation, y_observed, x_hidden = problem("implicit", "linear", "float64")
        weights = jnp.asarray(np.random.default_rng(1).standard_normal(flow.event_shape))
        packed, unpack = ravel_pytree((params, y_observed, x_hidden))

        def value(packed):
            params, y_observed, x_hidden = unpack(packed)
            y, _ = solve(flow, params, observation, y_observed, x_hidden, solver=TIGHT)
            return jnp.sum(weights * jnp.sin(y))

        run, rng = jax.jit(jax.value_and_grad(value)), np.random.default_rng(2)
        _, gradient = run(packed)
        assert all(max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(part)) > 0 for part in unpack(gradient))
        for _ in range(4):
            direction = rng.standard_normal(packed.shape)
            step = 1e-4 / np.linalg.norm(direction)
            seen = (run(packed + step * direction)[0] - run(packed - step * direction)[0]) / (2 * step)
            np.testing.assert_allclose(gradient @ direction, seen, rtol=1e-5, atol=1e-6)


def test_gradients_match_the_dense_implicit_formula_row_by_row():
    with jax.enable_x64(True):
        flow, params, _, _, _ = problem("residual", "mask", "float64")
        rng = np.random.default_rng(3)
        masks = jnp.asarray(rng.random((3, 8)) < 0.5)
        ys, xs = jnp.asarray(rng.standard_normal((2, 3, 8)))

        def value(observed, y, x):
            found, _ = solve(flow, params, mask(observed), y, x, solver=newton_krylov(tol=1e-12, forcing=1e-6))
            return jnp.sum(jnp.sin(found)), found

        jacobians = jax.jit(jax.jacfwd(flow.encode, argnums=1))
        seen, found = jax.jit(jax.vmap(jax.grad(value, argnums=(1, 2), has_aux=True)))(masks, ys, xs)
        for row in range(3):
            hidden = ~np.asarray(masks[row])
            jacobian, bar = np.asarray(jacobians(params, found[row])), np.cos(found[row])
            weights = np.linalg.solve(jacobian[np.ix_(hidden, hidden)].T, bar[hidden])
            x_bar, y_bar = np.zeros(8), np.zeros(8)
            x_bar[hidden] = weights
            y_bar[~hidden] = bar[~hidden] - jacobian[np.ix_(hidden, ~hidden)].T @ weights
            np.testing.assert_allclose(seen[0][row], y_bar, atol=1e-9)
            np.testing.assert_allclose(seen[1][row], x_bar, atol=1e-9)
