"""The anchor: a stationary point of the energy by its own gradient, with few linearisations, whatever the search meets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from benchmarks.known_flows import affine_flow, conditional_of, gaussian_of, linear_flow
from jaxflows import flows
from jaxflows.adapters import from_functions
from jaxflows.conditional.anchor_search import SMALL_DECREASE, STEP_ERROR, _conjugate_gradients, find_anchor
from jaxflows.conditional.gauss_newton import rough_completion
from jaxflows.conditional.hidden import hidden
from jaxflows.observation import linear, mask
from jaxflows.training.step import settle

KEY = jax.random.key(0)
FOUND = jax.jit(find_anchor, static_argnums=(0, 4))


def decrease_at(flow, params, where, y):
    """|C^{-1} A^T x|^2 / 2 by NumPy in float64, of a Jacobian taken apart from the search."""
    jacobian = np.asarray(jax.jacfwd(lambda t: flow.encode(params, t))(y), float).reshape(y.size, y.size)
    basis = np.asarray(jax.vmap(where.expand)(jnp.eye(where.slots.size)), float).reshape(where.slots.size, -1).T
    columns = jacobian @ basis[:, np.asarray(where.used)]
    gradient = columns.T @ np.asarray(flow.encode(params, y), float).reshape(-1)
    return 0.5 * gradient @ np.linalg.solve(columns.T @ columns, gradient)


@pytest.fixture(scope="module")
def bent():
    """A residual flow of 16 entries that is far from affine."""
    flow = flows.residual(event_shape=(16,), blocks=6, hidden=32)
    affine, stack = jax.jit(flow.init)(KEY)
    return flow, settle(flow, (affine, [{**part, "weight": 10.0 * part["weight"]} for part in stack]))


@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_the_end_is_stationary_and_its_linearisation_is_that_of_the_end(bent, kind):
    flow, params = bent
    rng = np.random.default_rng(1)
    if kind == "mask":
        observation = mask(jnp.asarray(rng.random(16) < 0.4))
    else:
        observation = linear(rng.standard_normal((5, 16))).observation
    where = hidden(observation, 12)
    y = observation.observed_part(jnp.asarray(2.0 * rng.standard_normal(16), jnp.float32))
    end = FOUND(flow, params, where, y, 60)
    assert not end.moving
    assert end.decrease <= SMALL_DECREASE
    np.testing.assert_allclose(decrease_at(flow, params, where, end.y), end.decrease, rtol=1e-2, atol=1e-5)
    # what was observed stays
    np.testing.assert_allclose(observation.observed_part(end.y), y, atol=1e-5)
    np.testing.assert_allclose(end.factor @ end.factor.T, end.columns.T @ end.columns + np.diag(1.0 - where.used), atol=1e-4)
    before, after = (float(jnp.sum(flow.encode(params, t) ** 2)) for t in (y, end.y))
    assert after < before


def test_an_affine_flow_is_linearised_twice_and_counted_so():
    flow, params = linear_flow(16, seed=0)
    mean, covariance = gaussian_of(flow, params)
    observed = np.arange(16) < 4
    y = np.where(observed, 1.5, 0.0).astype(np.float32)
    end = FOUND(flow, params, hidden(mask(jnp.asarray(observed)), 12), jnp.asarray(y), 60)
    centre, _ = conditional_of(mean, covariance, observed, y)
    np.testing.assert_allclose(end.y[~observed], centre, atol=1e-4)
    # a linearisation, a step of one iteration, a look at the next step, a linearisation
    passes = 2 * (12 + 1) + (2 + 5 + 2) + 2
    assert end.evaluations == flow.bijector.blocks * passes
    assert end.steps == 3


def shrinking(slope):
    """x = (y_0, y_1 exp(slope y_0)), explicit both ways, whose volume depends on y_0."""
    flow, _ = from_functions(
        event_shape=(2,),
        encode=lambda p, y: jnp.stack([y[0], y[1] * jnp.exp(p * y[0])]),
        decode=lambda p, x: jnp.stack([x[0], x[1] * jnp.exp(-p * x[0])]),
        log_det=lambda p, y: p * y[0],
        params=jnp.asarray(slope),
    )
    return flow, jnp.asarray(slope)


@pytest.mark.parametrize("slope", [0.5, 3.0])
def test_of_an_explicit_flow_the_energy_has_the_volume_by_the_share_observed(slope):
    flow, params = shrinking(slope)
    known = 0.4
    end = FOUND(flow, params, hidden(mask(jnp.array([False, True])), 1), jnp.array([0.0, known]), 60)
    assert end.decrease <= SMALL_DECREASE
    # of y_0^2 / 2 + known^2 exp(2 slope y_0) / 2 - slope y_0 / 2, which is convex, one entry of two being hidden
    least = scipy.optimize.brentq(lambda t: t + slope * known**2 * np.exp(2 * slope * t) - 0.5 * slope, -9.0, 9.0)
    # a step that promises so little is left undone: |C delta|^2 / 2, C >= 1
    assert abs(float(end.y[0]) - least) <= np.sqrt(2 * SMALL_DECREASE)


def test_few_steps_end_the_search_at_a_linearised_event(bent):
    flow, params = bent
    where = hidden(mask(jnp.arange(16) < 6), 12)
    y = jnp.where(jnp.arange(16) < 6, 2.0, 0.0)
    for most in (1, 2, 3):
        end = FOUND(flow, params, where, y, most)
        assert end.steps <= most
        np.testing.assert_allclose(decrease_at(flow, params, where, end.y), end.decrease, rtol=1e-2, atol=1e-5)


def test_a_flow_that_overflows_leaves_the_event_where_it_was():
    flow, _ = from_functions(
        event_shape=(2,),
        encode=lambda p, y: y / p["width"],
        decode=lambda p, x: x * p["width"],
        log_det=lambda p, y: -2 * jnp.log(p["width"]),
        params={"width": jnp.asarray(2.0)},
    )
    y = jnp.array([1.0, 0.0])
    end = FOUND(flow, {"width": jnp.asarray(jnp.nan)}, hidden(mask(jnp.array([True, False])), 1), y, 60)
    np.testing.assert_array_equal(end.y, y)
    assert not end.decrease <= SMALL_DECREASE


def test_conjugate_gradients_stop_at_their_error_in_the_norm_of_the_preconditioner():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((20, 20))
    matrix = root @ root.T + 5 * np.eye(20)
    factor = np.linalg.cholesky(np.diag(np.diag(matrix)))
    b = rng.standard_normal(20)
    as_jax = [jnp.asarray(t, jnp.float32) for t in (matrix, b, factor)]
    v, count = _conjugate_gradients(lambda t: as_jax[0] @ t, as_jax[1], as_jax[2], 50, jnp.ones((), bool))

    def norm(t):
        return np.sqrt(t @ (t / np.diag(matrix)))

    assert norm(b - matrix @ np.asarray(v, float)) <= STEP_ERROR * norm(b) * 1.001
    assert 1 < count < 20
    exact, once = _conjugate_gradients(
        lambda t: as_jax[0] @ t, as_jax[1], jnp.linalg.cholesky(as_jax[0]), 50, jnp.ones((), bool)
    )
    assert once == 1
    np.testing.assert_allclose(exact, np.linalg.solve(matrix, b), atol=1e-4)
    nothing, none = _conjugate_gradients(lambda t: as_jax[0] @ t, *as_jax[1:], 50, jnp.zeros((), bool))
    assert none == 0
    assert not nothing.any()


def test_the_search_in_affine_couplings_begins_where_it_ends():
    flow = flows.realnvp(event_shape=(6,), layers=2, hidden=8, blocks=1)
    params = affine_flow(flow, 0)
    seen, y = np.array([True, False, True, False, False, False]), np.array([0.5, 0.0, -1.0, 0.0, 0.0, 0.0])

    @jax.jit
    def begin(params, observed, y):
        where = hidden(mask(observed), 5)
        return rough_completion(flow, params, where, where.observation.observed_part(y))[0]

    found = np.asarray(begin(params, jnp.asarray(seen), jnp.asarray(y, jnp.float32)))
    centre, _ = conditional_of(*gaussian_of(flow, params), seen, y)
    np.testing.assert_allclose(found[~seen], centre, atol=1e-4)
    np.testing.assert_array_equal(found[seen], y[seen].astype(np.float32))
