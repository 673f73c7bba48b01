"""The nonparanormal: the map of entries that data tell of, holes and scatter, its Gaussian, completions, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import gaussian_completions
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.spline import elementwise_spline
from jaxflows.data import mcar
from jaxflows.metrics import Gaussian, Nonparanormal, fit_gaussian_pairs, fit_nonparanormal

BINS, SIZE, ROWS = 6, 8, 20_000
FRONT = elementwise_spline(bins=BINS, low=-4.0, high=4.0)
# steep at both ends and flat between them, as grey levels ask for
PARAMS = {"numbers": jnp.asarray([[0, 0, 0, 0, 0, 0, 0.375, 0.0, -0.375, -0.375, 0.0, 0.375, 0, 0, 0, 0, 0]], jnp.float32)}
# entries that go with their neighbours
PLACES = np.arange(SIZE)
COVARIANCE = 0.85 ** np.abs(PLACES[:, None] - PLACES)
NORMAL = np.random.default_rng(0).multivariate_normal(np.zeros(SIZE), COVARIANCE, size=ROWS).astype(np.float32)
TRUTH = Nonparanormal(FRONT, PARAMS, Gaussian((SIZE,), np.zeros(SIZE), np.linalg.cholesky(COVARIANCE)))
EVENTS = TRUTH.to_events(NORMAL)
GRID = jnp.linspace(-1.8, 1.8, 25)


def _slopes(found):
    """Logarithm of S' where events are, less its mean: no likelihood tells of the unit of u."""
    levels = jax.vmap(jax.grad(lambda y: found.front.transform(found.params, y[None])[0]))(GRID)
    return np.log(levels) - np.mean(np.log(levels))


def _error(found, truth):
    """Root mean square of the difference of those logarithms."""
    return np.sqrt(np.mean((_slopes(found) - truth) ** 2))


def test_maps_there_and_back_are_inverse_and_of_no_rows_nothing():
    np.testing.assert_allclose(TRUTH.to_gaussian(EVENTS), NORMAL, atol=2e-5)
    assert TRUTH.to_gaussian(EVENTS[:0]).shape == (0, SIZE)
    assert TRUTH.event_shape == (SIZE,)


@pytest.mark.parametrize(("missing", "worst"), [(0.0, 0.1), (0.6, 0.15)])
def test_the_map_is_found_from_what_was_observed(missing, worst):
    observed = mcar(ROWS, (SIZE,), missing, seed=1)
    found = fit_nonparanormal(np.where(observed, EVENTS, np.nan), observed, front=FRONT)
    # the slopes differ by a factor of about eleven
    assert np.ptp(_slopes(TRUTH)) > 1.5
    assert _error(found, _slopes(TRUTH)) < worst
    # the Gaussian is that of the mapped rows, and what was hidden does not matter
    again = fit_gaussian_pairs(found.to_gaussian(EVENTS), observed)
    np.testing.assert_allclose(found.gaussian.factor, again.factor, atol=1e-4)
    other = fit_nonparanormal(np.where(observed, EVENTS, 9.0), observed, front=FRONT)
    np.testing.assert_array_equal(found.params["numbers"], other.params["numbers"])


def test_of_normal_rows_the_map_is_straight():
    found = fit_nonparanormal(NORMAL, np.ones(NORMAL.shape, bool), front=FRONT)
    assert _error(found, 0.0) < 0.1


def test_each_entry_may_have_a_map_of_its_own():
    own = elementwise_spline(over="element", bins=BINS, low=-4.0, high=4.0)
    mixed = np.concatenate([EVENTS[:, :4], NORMAL[:, 4:]], axis=1)
    found = fit_nonparanormal(mixed, np.ones(mixed.shape, bool), front=own)
    for entry, expected in ((1, _slopes(TRUTH)), (6, 0.0)):
        alone = Nonparanormal(FRONT, {"numbers": found.params["numbers"][entry][None]}, TRUTH.gaussian)
        assert _error(alone, expected) < 0.2


def test_draws_of_its_completions_are_the_gaussians_own_mapped_back():
    seen = PLACES % 2 == 0
    row, count = EVENTS[3], 4000
    rows, observed = np.tile(np.where(seen, row, np.nan), (count, 1)), np.tile(seen, (count, 1))
    drawn = gaussian_completions(jax.random.key(0), TRUTH, rows, observed, progress=False)
    np.testing.assert_array_equal(drawn[:, seen], rows[:, seen])
    gain = COVARIANCE[np.ix_(~seen, seen)] @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)])
    mean = gain @ NORMAL[3, seen]
    variance = np.diag(COVARIANCE[np.ix_(~seen, ~seen)] - gain @ COVARIANCE[np.ix_(seen, ~seen)])
    normal = TRUTH.to_gaussian(drawn)[:, ~seen]
    assert np.all(np.abs(normal.mean(0) - mean) < 5 * np.sqrt(variance / count))
    assert np.all(np.abs(normal.var(0) - variance) < 5 * variance * np.sqrt(2 / count))


def test_rows_that_do_not_vary_and_rows_of_one_entry():
    still = fit_nonparanormal(np.full((10, 2), 0.5), np.ones((10, 2), bool))
    assert not np.any(still.params["numbers"])
    single = fit_nonparanormal(EVENTS[:, :1], np.ones((ROWS, 1), bool), front=FRONT)
    # of one entry there are no neighbours: its map makes it normal
    assert _error(single, _slopes(TRUTH)) < 0.1


def test_refusals():
    observed = np.ones((10, 2), bool)
    with pytest.raises(ValueError, match="elementwise_spline before the Gaussian"):
        fit_nonparanormal(np.zeros((10, 2)), observed, front=actnorm())
    for bound in ("columns", "neighbours", "most_entries"):
        with pytest.raises(ValueError, match=f"{bound}.* >= 1"):
            fit_nonparanormal(np.zeros((10, 2)), observed, **{bound: 0})
    with pytest.raises(ValueError, match="column 1"):
        fit_nonparanormal(np.zeros((10, 2)), observed & [True, False])
