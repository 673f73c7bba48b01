"""Hamiltonian moves: exact for known conditionals wherever they begin, what was measured kept, and every refusal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from jaxflows import flows, inverse, measurements
from jaxflows.conditional.complete import complete
from jaxflows.conditional.drawing_plan import MOST_WEIGHED, MOVES, drawing_plan
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.moves import LEAPFROGS, move
from jaxflows.conditional.posteriors import full_rank, gauss_newton, prior
from jaxflows.conditional.spreads import hidden_spread
from jaxflows.inverse.infer import infer
from jaxflows.inverse.noisy_measurements import noisy_measurement
from jaxflows.observation import mask
from jaxflows.solvers.chord import chord

KEY = jax.random.key(0)
CHAINS = 600


def _moved(flow, params, seen, y, moves, max_hidden):
    """Where chains end that all begin at one completion, far from the bulk."""

    def run(params, observed, y):
        where = hidden(mask(observed), max_hidden)
        known = where.observation.observed_part(y)
        start = gauss_newton_reference(flow, params, where, known, "same")
        begin = jnp.broadcast_to(where.observation.restore(start.anchor + 1.0, known), (CHAINS, *y.shape))
        return move(KEY, flow, params, where.observation, hidden_spread(where, start.spread), begin, moves)

    return jax.jit(run)(params, jnp.asarray(seen), jnp.asarray(y, jnp.float32))


def _check_moments(flow, params, seen, y, events):
    """Mean and covariance of `CHAINS` events, hidden part, against the affine flow's conditional, in standard errors."""
    mean, covariance = conditional_of(*gaussian_of(flow, params), seen, y)
    ends = np.asarray(events)[:, ~seen]
    assert np.all(np.abs(ends.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / CHAINS))
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / CHAINS)
    assert np.all(np.abs(np.cov(ends, rowvar=False) - covariance) < 5 * error)


@pytest.mark.parametrize("max_hidden", [3, 5])
def test_of_an_affine_flow_they_end_at_its_conditional(max_hidden):
    flow, params = linear_flow(5, seed=3)
    seen, y = np.array([True, False, True, False, False]), np.array([0.5, 0.0, -1.0, 0.0, 0.0])
    moved = _moved(flow, params, seen, y, 20, max_hidden)
    np.testing.assert_array_equal(moved.samples[:, seen], np.broadcast_to(y[seen].astype(np.float32), (CHAINS, 2)))
    _check_moments(flow, params, seen, y, moved.samples)
    assert 0.5 < float(moved.acceptance) <= 1.0
    assert int(moved.evaluations) == 2 * flow.bijector.blocks * CHAINS * (1 + 20 * LEAPFROGS)


@pytest.fixture(scope="module")
def bent():
    """A flow of two entries that bends: couplings with weights ten times their usual size."""
    flow = flows.realnvp(event_shape=(2,), layers=4, hidden=8, blocks=1)
    leaves, tree = jax.tree.flatten(flow.init(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    bend = [leaf + 0.5 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return flow, jax.tree.unflatten(tree, bend)


def test_of_a_bent_flow_they_end_at_the_conditional_that_quadrature_knows(bent):
    flow, params = bent
    y0 = 0.4
    moved = _moved(flow, params, np.array([True, False]), np.array([y0, 0.0]), 40, 1)
    ends = np.sort(np.asarray(moved.samples)[:, 1])
    grid = np.linspace(-12.0, 12.0, 24_001)
    log_density = np.asarray(
        jax.jit(jax.vmap(lambda t: flow.log_prob(params, jnp.asarray([y0, t]))))(jnp.asarray(grid, jnp.float32)), float
    )
    density = np.exp(log_density - log_density.max())
    assert density[[0, -1]].max() < 1e-6 * density.max()
    cumulative = np.cumsum(density) / density.sum()
    # Gaussian it is not: its third moment is far from 0
    mean = np.sum(grid * density) / density.sum()
    deviation = np.sqrt(np.sum((grid - mean) ** 2 * density) / density.sum())
    assert abs(np.sum((grid - mean) ** 3 * density) / density.sum() / deviation**3) > 0.2
    distance = np.max(np.abs(np.interp(ends, grid, cumulative) - (np.arange(CHAINS) + 0.5) / CHAINS))
    # Kolmogorov and Smirnov: one in a thousand
    assert distance < 1.95 / np.sqrt(CHAINS)


def test_with_weights_unsolved_draws_are_moved_from_the_anchor_and_weights_stay(bent):
    rows, observed = np.array([[0.4, np.nan], [-0.3, 2.0]], np.float32), np.array([[1, 0], [0, 1]], bool)
    options = {"num_samples": 4, "solver": chord(max_steps=1, tol=1e-12), "partition": "tangent", "progress": False}
    still = complete(KEY, *bent, rows, observed, weighted=False, **options)
    assert np.all(still.info.converged == 0.0)
    assert np.all(np.isneginf(still.log_weights))
    assert np.all(np.isnan(still.info.acceptance))
    unsolved = complete(KEY, *bent, rows, observed, weighted=True, moves=20, **options)
    assert np.all(np.isneginf(unsolved.log_weights))
    assert not np.any((unsolved.samples == unsolved.anchor[:, None]) & ~observed[:, None])
    # the weights are those of the draws before the moves, and the same draws are moved
    weighed = complete(KEY, *bent, rows, observed, num_samples=4, partition="tangent", moves=20, progress=False)
    plain = complete(KEY, *bent, rows, observed, num_samples=4, partition="tangent", progress=False)
    # two programs round otherwise
    np.testing.assert_allclose(weighed.log_weights, plain.log_weights, rtol=1e-5)
    assert not np.any((weighed.samples == plain.samples) & ~observed[:, None])


def test_one_that_begins_where_it_is_steep_is_not_left_there(bent):
    flow, params = bent
    where = hidden(mask(jnp.asarray([True, False])), 1)
    known = jnp.asarray([0.4, 0.0])
    start = gauss_newton_reference(flow, params, where, known, "same")
    begin = jnp.stack([start.anchor] * 7 + [start.anchor + where.expand(jnp.asarray([60.0]))])
    spread = hidden_spread(where, start.spread)
    moved = jax.jit(lambda params: move(KEY, flow, params, where.observation, spread, begin, 40))(params)
    assert np.max(np.abs(moved.samples[:, 1])) < 12.0


def test_a_linear_measurement_holds_after_them():
    flow, params = linear_flow(5, seed=3)
    operator = measurements.gaussian((5,), 2)
    reading = noisy_measurement(operator, np.array([0.3, -1.2], np.float32))
    found = infer(KEY, flow, params, reading, method=inverse.constraint(weighted=False, moves=4), num_samples=8)
    np.testing.assert_allclose(found.misfit, 0.0, atol=1e-5)
    assert found.notes == ()


def test_draws_of_large_explicit_flows_are_moved_unless_something_else_is_asked_for():
    small, large = (flows.realnvp(event_shape=(size,), layers=2, hidden=4) for size in (MOST_WEIGHED, MOST_WEIGHED + 1))
    residual = flows.residual(event_shape=(MOST_WEIGHED + 1,), blocks=1, hidden=4)

    def plan(flow, *, family=None, partition="auto", weighted=None, moves=None, antithetic=False, anchors=1):
        return drawing_plan(flow, family or gauss_newton(), partition, weighted, moves, antithetic, anchors)

    for flow in (small, residual):
        assert plan(flow) == (True, 0, None)
        assert plan(flow, weighted=False) == (False, 0, None)
    moved = plan(large)
    assert moved[:2] == (False, MOVES)
    words = "draws were moved 48 times and not weighed: the flow is explicit both ways, its events have 513 entries"
    assert moved.note == words
    assert plan(large, weighted=True) == (True, 0, None)
    assert plan(large, weighted=True, moves=3) == (True, 3, None)
    assert plan(large, weighted=False).note.startswith("draws were moved 48 times: ")
    assert plan(large, moves=0) == (True, 0, None)
    assert plan(large, antithetic=True)[:2] == (False, MOVES)
    for others in (
        {"anchors": 2},
        {"family": prior()},
        {"family": full_rank()},
        {"partition": "tangent"},
    ):
        assert plan(large, **others) == (True, 0, None)
    # moves of the draws of a fitted posterior are weighed
    assert plan(large, family=full_rank(), moves=3) == (True, 3, None)


def test_what_cannot_be_moved_is_refused_before_any_work(bent):
    rows, observed = np.zeros((1, 2), np.float32), np.array([True, False])
    for options, words in (
        ({"moves": -1}, "moves >= 0; got -1"),
        ({"moves": 2, "antithetic": True}, "no moves of antithetic draws with weights"),
        ({"moves": 2, "anchors": 2}, "single anchor with moves; got 2"),
        ({"moves": 2, "posterior": prior()}, "starts at Gauss-Newton's"),
        ({"moves": 2, "posterior": full_rank(), "weighted": False}, "expected weights with moves of full_rank's draws"),
        ({"moves": 2, "partition": "tangent", "weighted": False}, "expected weights with moves of partition 'tangent''s draws"),
        ({"moves": 2, "chains": 2}, "expected weighted=False and moves= with chains=; got weighted=True, moves="),
        ({"chains": 2}, "expected weighted=False and moves= with chains=; got weighted=True, moves="),
        ({"moves": 2, "weighted": False, "chains": 17}, "expected chains from 1 to as many as draws, 16; got 17"),
        ({"moves": 2, "weighted": False, "chains": 0}, "expected chains from 1 to as many as draws, 16; got 0"),
        ({"moves": 9, "weighted": False, "chains": 7, "antithetic": True}, "expected an even number of chains, .*; got 7"),
        ({"moves": 6, "weighted": False, "chains": 4}, "expected at most 3 draws of a chain of 6 moves, .*; got 4"),
    ):
        with pytest.raises(ValueError, match=words):
            complete(KEY, *bent, rows, observed, **options)
