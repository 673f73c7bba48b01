"""Completions that are not weighed: the flow's moments, what they make of its events, and where the moves end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from jaxflows import flows, measurements
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.spline import elementwise_spline
from jaxflows.conditional.complete import complete
from jaxflows.conditional.moved_events import (
    FEWEST_EVENTS,
    RIDGE,
    conditioned_events,
    draw_moved,
    event_moments,
    kept_moments,
)
from jaxflows.conditional.moves import LEAPFROGS
from jaxflows.conditional.sample import draw_samples
from jaxflows.conditional.spreads import conditional_spread, moments_of
from jaxflows.flows.flow import flow_of
from jaxflows.observation import linear, mask

KEY = jax.random.key(0)
CHAINS = 600
SEEN, Y = np.array([True, False, True, False, False]), np.array([0.5, 0.0, -1.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def affine():
    """An affine flow of five entries, with the exact moments of its events in place of those of draws."""
    flow, params = linear_flow(5, seed=3)
    mean, covariance = gaussian_of(flow, params)
    return flow, params, moments_of(jnp.asarray(mean, jnp.float32), jnp.asarray(covariance, jnp.float32))


def _check_moments(flow, params, events, seen=SEEN, y=Y, chains=CHAINS):
    """Mean and covariance of events, hidden part, against the affine flow's conditional, in standard errors of ``chains``."""
    mean, covariance = conditional_of(*gaussian_of(flow, params), seen, y)
    ends = np.asarray(events)[:, ~seen]
    assert np.all(np.abs(ends.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / chains))
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / chains)
    assert np.all(np.abs(np.cov(ends, rowvar=False) - covariance) < 5 * error)


def test_the_moments_are_those_of_the_flows_events(affine):
    flow, params, _ = affine
    found = event_moments(flow, params)
    mean, covariance = gaussian_of(flow, params)
    ridged = covariance + RIDGE * np.trace(covariance) / 5 * np.eye(5)
    assert np.all(np.abs(found.mean - mean) < 5 * np.sqrt(np.diag(covariance) / FEWEST_EVENTS))
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / FEWEST_EVENTS)
    assert np.all(np.abs(np.linalg.inv(found.precision) - ridged) < 5 * error)
    # the flow is residual: a decode takes more than one evaluation of a block
    assert int(found.evaluations) > FEWEST_EVENTS * flow.bijector.blocks
    # of the same flow always the same
    np.testing.assert_array_equal(event_moments(flow, params).precision, found.precision)


@pytest.mark.parametrize("far", [np.inf, -1e6])
def test_events_that_are_far_away_are_left_out_and_a_flow_of_no_finite_ones_is_refused(far):
    flow = flows.realnvp(event_shape=(2,), layers=2, hidden=4)
    fine = flow.init(KEY)
    sometimes = flow._replace(bijector=_with_decode(flow, lambda x: jnp.where(x[0] > 1.0, far, x)))
    found = event_moments(sometimes, fine)
    # a normal law below 1: with h = phi(1) / Phi(1) its mean is -h, its variance 1 - h - h^2
    hazard = 0.24197 / 0.84134
    variances = np.array([1.0 - hazard - hazard**2, 1.0])
    kept = 0.84 * FEWEST_EVENTS
    assert np.all(np.abs(found.mean - np.array([-hazard, 0.0])) < 5 * np.sqrt(variances / kept))
    assert np.all(np.abs(np.diag(np.linalg.inv(found.precision)) - variances) < 5 * variances * np.sqrt(2 / kept))
    never = flow._replace(bijector=_with_decode(flow, lambda x: x / 0.0))
    with pytest.raises(ValueError, match="no finite second moments"):
        complete(KEY, never, fine, np.zeros((1, 2), np.float32), np.array([True, False]), weighted=False, moves=1)


def _with_decode(flow, decode):
    inverse = flow.bijector.invert
    return flow.bijector._replace(invert=lambda params, x, *more: (decode(x), inverse(params, x, *more)[1]))


# which of the two roots of the conditional covariance is taken, and with unused slots
@pytest.mark.parametrize("bounds", [(3, None), (4, 5), (None, 2), (5, 3)])
def test_events_of_an_affine_flow_become_draws_of_its_conditional(affine, bounds):
    flow, params, exact = affine
    observation = mask(jnp.asarray(SEEN))
    known = observation.observed_part(jnp.asarray(Y, jnp.float32))
    mean, _ = conditional_of(*gaussian_of(flow, params), SEEN, Y)

    def run(flow, count):
        spread = conditional_spread(exact, observation, *bounds)
        return conditioned_events(KEY, flow, params, observation, exact, spread, known, count)

    events, middle, spent = jax.jit(run, static_argnums=(0, 1))(flow, CHAINS)
    np.testing.assert_allclose(middle[~SEEN], mean, atol=1e-4)
    np.testing.assert_array_equal(events[:, SEEN], np.broadcast_to(known[SEEN], (CHAINS, 2)))
    _check_moments(flow, params, events)
    assert int(spent) > 2 * CHAINS * flow.bijector.blocks
    # what the flow makes no event of is the middle
    never = flow._replace(bijector=_with_decode(flow, lambda x: jnp.nan * x))
    nowhere, _, _ = jax.jit(run, static_argnums=(0, 1))(never, 2)
    np.testing.assert_array_equal(nowhere, np.broadcast_to(middle, (2, 5)))


@pytest.mark.parametrize("measured", ["entries", "sums"])
def test_moved_draws_of_an_affine_flow_are_of_its_conditional(affine, measured):
    flow, params, _ = affine
    moves = 10
    if measured == "entries":
        observation, y = mask(jnp.asarray(SEEN)), jnp.asarray(Y, jnp.float32)
    else:
        sums = linear(np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0, 2.0]], np.float32))
        observation, y = sums.observation, sums.pseudo_inverse(jnp.asarray([0.3, -1.2]))
    draws = jax.jit(lambda y: draw_moved(KEY, flow, params, observation, y, num_samples=CHAINS, moves=moves))(y)
    assert np.all(draws.log_weights == 0.0)
    assert np.isnan(draws.overlap)
    assert np.isnan(draws.report.ess)
    assert int(draws.solve.evaluations) > flow.bijector.blocks * CHAINS * (2 + 2 * (1 + moves * LEAPFROGS))
    if measured == "entries":
        np.testing.assert_array_equal(draws.samples[:, SEEN], np.broadcast_to(y[SEEN], (CHAINS, 2)))
        _check_moments(flow, params, draws.samples)
        return
    np.testing.assert_allclose(jax.vmap(sums.measure)(draws.samples), np.broadcast_to([0.3, -1.2], (CHAINS, 2)), atol=1e-5)
    mean, covariance = gaussian_of(flow, params)
    matrix = np.asarray(jax.vmap(sums.measure)(jnp.eye(5))).T
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T)
    expected, left = mean + gain @ ([0.3, -1.2] - matrix @ mean), covariance - gain @ matrix @ covariance
    ends = np.asarray(draws.samples)
    assert np.all(np.abs(ends.mean(0) - expected) < 5 * np.sqrt(np.diag(left) / CHAINS))
    error = np.sqrt((np.outer(np.diag(left), np.diag(left)) + left**2) / CHAINS)
    assert np.all(np.abs(np.cov(ends, rowvar=False) - left) < 5 * error)


def test_chains_give_several_draws_each_of_which_the_last_come_first(affine):
    flow, params, moments = affine
    observation, y, chains = mask(jnp.asarray(SEEN)), jnp.asarray(Y, jnp.float32), 200

    def run(num_samples):
        return jax.jit(
            lambda y: draw_moved(
                KEY, flow, params, observation, y, num_samples=num_samples, chains=chains, moves=9, moments=moments
            )
        )(y)

    last, all_of = run(chains), run(4 * chains)
    np.testing.assert_allclose(all_of.samples[:chains], last.samples, atol=1e-5)
    np.testing.assert_allclose(all_of.acceptance, last.acceptance, rtol=1e-5)
    assert all_of.solve.evaluations == last.solve.evaluations
    assert all_of.log_weights.shape == (4 * chains,)
    # of a number that they do not divide, the first states are left out of some
    uneven = run(2 * chains + 5)
    np.testing.assert_allclose(uneven.samples[:chains], last.samples, atol=1e-5)
    assert uneven.samples.shape == (2 * chains + 5, 5)
    # the second half has five moves, and each state of a chain is another than the one before it
    states = np.asarray(all_of.samples).reshape(4, chains, 5)[..., ~SEEN]
    for number in range(4):
        _check_moments(flow, params, all_of.samples[number * chains : (number + 1) * chains], chains=chains)
        stayed = np.mean(np.all(states[number] == states[number - 1], axis=1))
        # a move is accepted three times in four
        assert stayed < 0.4
    # of a chain that stood still it would be 1
    mean, _ = conditional_of(*gaussian_of(flow, params), SEEN, Y)
    centred = states - mean
    correlation = np.sum(centred[0] * centred[1]) / np.sum(centred[0] ** 2)
    assert correlation < 0.7


def test_antithetic_pairs_of_an_affine_flow_lie_on_opposite_sides_of_the_mean(affine):
    flow, params, moments = affine
    observation, y = mask(jnp.asarray(SEEN)), jnp.asarray(Y, jnp.float32)

    def run(num_samples, chains):
        return jax.jit(
            lambda y: draw_moved(
                KEY, flow, params, observation, y, num_samples=num_samples, chains=chains, moves=8, moments=moments,
                antithetic=True,
            )
        )(y).samples[:, ~SEEN]  # fmt: skip

    mean, covariance = conditional_of(*gaussian_of(flow, params), SEEN, Y)
    pairs = run(2 * CHAINS, None)
    np.testing.assert_allclose(0.5 * (pairs[::2] + pairs[1::2]), np.broadcast_to(mean, (CHAINS, 3)), atol=2e-3)
    # each half alone has the law of the conditional
    for half in (pairs[::2], pairs[1::2]):
        assert np.all(np.abs(half.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(covariance) / CHAINS))
        error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / CHAINS)
        assert np.all(np.abs(np.cov(half, rowvar=False) - covariance) < 5 * error)
    # states before the last are in pairs too, and of an odd number the last has no partner
    earlier = run(12, 4)[4:]
    np.testing.assert_allclose(earlier[::2] + earlier[1::2], np.broadcast_to(2 * mean, (4, 3)), atol=4e-3)
    odd = run(3, None)
    assert np.abs(odd[2] - mean).max() > 0.05


def test_behind_a_map_of_each_entry_draws_are_of_the_flow_there_mapped_back(affine):
    flow, params, _ = affine
    front = elementwise_spline(bins=6, low=-3.0, high=3.0)
    own = {"numbers": 0.5 * jax.random.normal(jax.random.key(5), (1, 17))}
    whole, both = flow_of((5,), chain(front, flow.bijector)), (own, params)
    there = jax.jit(lambda y: front.transform(own, y))
    y = jnp.asarray(np.where(SEEN, Y, np.nan), jnp.float32)
    told = np.where(SEEN, there(jnp.nan_to_num(y)), 0.0)
    # behind the front the observation is another, and the conditional is known
    assert np.abs(told - Y)[SEEN].max() > 0.05
    rows, observed = np.asarray(y)[None], SEEN[None]
    done = complete(KEY, whole, both, rows, observed, num_samples=CHAINS, weighted=False, moves=10, progress=False)
    np.testing.assert_array_equal(done.samples[0][:, SEEN], np.broadcast_to(Y[SEEN].astype(np.float32), (CHAINS, 2)))
    _check_moments(flow, params, jax.vmap(there)(done.samples[0]), y=told)
    pure = jax.jit(lambda y: draw_moved(KEY, whole, both, mask(jnp.asarray(SEEN)), y, num_samples=CHAINS, moves=10))(y)
    _check_moments(flow, params, jax.vmap(there)(pure.samples), y=told)
    np.testing.assert_array_equal(pure.anchor[SEEN], y[SEEN])
    # sums of entries are no sums behind it: those are moved where they are measured
    sums = linear(np.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0, 2.0]], np.float32))
    ends = complete(KEY, whole, both, np.array([[0.3, -1.2]]), sums, num_samples=4, weighted=False, moves=4, progress=False)
    np.testing.assert_allclose(jax.vmap(sums.measure)(ends.samples[0]), np.broadcast_to([0.3, -1.2], (4, 2)), atol=1e-5)
    assert ends.info.acceptance[0] > 0.0


def test_a_batch_is_moved_row_by_row_and_nothing_is_solved(affine):
    flow, params, _ = affine
    rows = np.array([Y, 2 * Y, np.arange(5.0), np.ones(5)], np.float32)
    observed = np.array([SEEN, ~SEEN, np.zeros(5, bool), np.ones(5, bool)])
    rows[~observed] = np.nan
    options = {"num_samples": 3, "weighted": False, "moves": 4, "progress": False}
    done = complete(KEY, flow, params, rows, observed, **options)
    assert np.all(done.log_weights == 0.0)
    assert np.all((done.info.converged == 1.0) & np.isnan(done.info.ess))
    np.testing.assert_array_equal(done.info.residual[:3], 0.0)
    assert np.all((done.info.acceptance[:3] > 0.0) & (done.info.acceptance[:3] <= 1.0))
    seen = np.broadcast_to(observed[:, None], done.samples.shape)
    np.testing.assert_array_equal(done.samples[seen], np.broadcast_to(rows[:, None], done.samples.shape)[seen])
    assert np.unique(done.samples[~seen]).size == np.sum(~seen)
    # the moments of the flow are taken once, and those of another are not taken for them
    assert kept_moments(flow, params) is kept_moments(flow, jax.tree.map(jnp.array, params))
    assert kept_moments(flow, jax.tree.map(lambda leaf: 0.5 * leaf, params)) is not kept_moments(flow, params)
    # whatever else is in the batch: a row is its own, but for its share of the moments' evaluations
    alone = complete(KEY, flow, params, rows[:1], observed[:1], **options)
    # another program rounds otherwise, and four trajectories multiply that
    np.testing.assert_allclose(alone.samples[0], done.samples[0], atol=1e-3)
    share = int(event_moments(flow, params).evaluations)
    assert alone.info.evaluations[0] - done.info.evaluations[0] == share - -(-share // 3)


def test_moves_without_weights_are_not_those_of_a_posteriors_draws(affine):
    flow, params, _ = affine
    with pytest.raises(ValueError, match="expected weights with moves of a posterior's draws"):
        draw_samples(KEY, flow, params, mask(jnp.asarray(SEEN)), jnp.asarray(Y), moves=2, weighted=False)


def test_pooled_readings_of_an_image_hold_in_every_draw():
    flow = flows.whitened_image(event_shape=(8, 8, 1), layers=4, hidden=4, dense=6)
    operator = measurements.average_pooling((8, 8, 1), 4)
    readings = np.asarray([operator.measure(jnp.linspace(0.0, 1.0, 64).reshape(8, 8, 1))])
    done = complete(KEY, flow, flow.init(KEY), readings, operator, num_samples=2, weighted=False, moves=2, progress=False)
    np.testing.assert_allclose(jax.vmap(operator.measure)(done.samples[0]), np.repeat(readings, 2, axis=0), atol=1e-5)
