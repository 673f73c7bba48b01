"""Roots of the conditional covariance of a Gaussian, for masks and rotations, of either block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import measurements
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.spreads import (
    conditional_spread,
    gaussian_completion,
    gaussian_event,
    hidden_spread,
    moments_of,
    principal_of,
)
from jaxflows.observation import mask

KEY = jax.random.key(0)
SHAPE, SIZE = (2, 3), 6
SEEN = np.array([[True, False, True], [False, False, False]])


@pytest.fixture(scope="module")
def moments():
    factor = np.tril(np.asarray(jax.random.normal(KEY, (SIZE, SIZE)))) + 2.0 * np.eye(SIZE)
    return moments_of(jnp.arange(SIZE, dtype=jnp.float32).reshape(SHAPE), jnp.asarray(factor @ factor.T, jnp.float32))


def _measured(kind):
    """An observation and, in float64, the rows A of what it sees."""
    if kind == "mask":
        return mask(jnp.asarray(SEEN)), np.eye(SIZE)[SEEN.reshape(-1)]
    operator = measurements.gaussian(SHAPE, 2)
    return operator.observation, np.asarray(jax.vmap(operator.measure)(jnp.eye(SIZE).reshape(-1, *SHAPE)), float).T


def _conditional(mean, covariance, rows, y):
    """Mean and covariance, (d,) and (d, d), of the Gaussian given its readings, in float64."""
    mean, covariance = np.asarray(mean, float).reshape(-1), np.asarray(covariance, float)
    gain = covariance @ rows.T @ np.linalg.inv(rows @ covariance @ rows.T)
    return mean + gain @ rows @ (y - mean), covariance - gain @ rows @ covariance


def _check(some, covariance, kind, bounds):
    """Spread and completion of a Gaussian against its conditional."""
    observation, rows = _measured(kind)
    y = np.linspace(-1.0, 1.0, SIZE)
    mean, expected = _conditional(some.mean, covariance, rows, y)
    spread = conditional_spread(some, observation, *bounds)
    root = np.asarray(jax.vmap(spread.push, out_axes=-1)(jnp.eye(spread.size))).reshape(SIZE, -1)
    # float32 roots of blocks with eigenvalues from 1 to 30
    np.testing.assert_allclose(root @ root.T, expected, atol=2e-4)
    back = np.asarray(jax.vmap(spread.pull)(jnp.eye(SIZE).reshape(-1, *SHAPE)))
    np.testing.assert_allclose(back, root, atol=1e-5)
    known = observation.observed_part(jnp.asarray(y, jnp.float32).reshape(SHAPE))
    middle = gaussian_completion(some, observation, spread, known, some.mean)
    np.testing.assert_allclose(middle.reshape(-1), mean, atol=5e-4)
    if kind == "mask":
        np.testing.assert_array_equal(middle[SEEN], known[SEEN])
        np.testing.assert_array_equal(root[SEEN.reshape(-1)], 0.0)


# hidden are 4, observed 2: of the first three the hidden block is factorised, of the others the observed
@pytest.mark.parametrize("bounds", [(None, None), (4, None), (4, 5), (None, 2), (6, 3), (5, 2)])
@pytest.mark.parametrize("kind", ["mask", "sums"])
def test_a_spread_is_a_root_of_the_conditional_covariance(moments, kind, bounds):
    _check(moments, moments.covariance, kind, bounds)


@pytest.mark.parametrize("kind", ["mask", "sums"])
def test_of_principal_components_it_is_a_root_of_their_conditional_covariance(moments, kind):
    variances = np.linalg.eigvalsh(np.asarray(moments.covariance, float))
    few = principal_of(np.asarray(moments.mean), np.asarray(moments.covariance), 2, jnp.float32)
    covariance = float(few.scale) ** 2 * (np.asarray(few.directions @ few.directions.T, float) + np.eye(SIZE))
    # of the components the variances, of the others the mean
    np.testing.assert_allclose(
        np.linalg.eigvalsh(covariance), np.append(np.full(4, variances[:4].mean()), variances[4:]), rtol=1e-5
    )
    _check(few, covariance, kind, ())


@pytest.mark.parametrize("rank", [None, 2])
def test_a_gaussian_event_has_its_moments(moments, rank):
    covariance = np.asarray(moments.covariance, float)
    some = moments if rank is None else principal_of(np.asarray(moments.mean), covariance, rank, jnp.float32)
    events = np.asarray(jax.vmap(lambda k: gaussian_event(k, some))(jax.random.split(KEY, 4000))).reshape(4000, -1)
    if rank is not None:
        covariance = np.asarray(some.scale**2 * (some.directions @ some.directions.T + jnp.eye(SIZE)), float)
    assert np.all(np.abs(events.mean(0) - moments.mean.reshape(-1)) < 5 * np.sqrt(np.diag(covariance) / 4000))
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / 4000)
    assert np.all(np.abs(np.cov(events, rowvar=False) - covariance) < 5 * error)


@pytest.mark.parametrize("bounds", [(6, 1), (1, 6), (None, None)])
def test_nothing_observed_is_the_whole_covariance_and_everything_observed_is_none(moments, bounds):
    unseen, seen = bounds
    for observed, expected in ((False, moments.covariance), (True, jnp.zeros((SIZE, SIZE)))):
        # a bound of 1 is the least there is, and right for none
        if (observed and seen == 1) or (not observed and unseen == 1):
            continue
        spread = conditional_spread(moments, mask(jnp.full(SHAPE, observed)), unseen, seen)
        root = np.asarray(jax.vmap(spread.push, out_axes=-1)(jnp.eye(spread.size))).reshape(SIZE, -1)
        np.testing.assert_allclose(root @ root.T, expected, atol=2e-4)


def test_unused_slots_of_a_matrix_do_not_count():
    where = hidden(mask(jnp.asarray(SEEN)), 5)
    spread = hidden_spread(where, jnp.arange(1.0, 26.0).reshape(5, 5))
    r = jnp.ones(5)
    np.testing.assert_allclose(spread.push(r)[~SEEN], [10.0, 30.0, 50.0, 70.0])
    np.testing.assert_array_equal(spread.push(r)[SEEN], 0.0)
    np.testing.assert_allclose(spread.pull(jnp.ones(SHAPE)), [34.0, 38.0, 42.0, 46.0, 0.0])
