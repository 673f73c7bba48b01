"""Draws of a Gaussian given rows: the known conditional, what was observed, everything and nothing hidden, refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxflows as jf
from jaxflows.metrics import Gaussian, fit_gaussian_pairs, gaussian_conditional

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FACTOR = np.linalg.cholesky(np.cov(RNG.standard_normal((5, 40))) + 0.3 * np.ones((5, 5)))
GAUSSIAN = Gaussian((5,), np.arange(5.0), FACTOR)
ROW = np.array([0.3, np.nan, 2.0, np.inf, 3.0])
SEEN = np.array([True, False, True, False, True])


@pytest.mark.parametrize("rank", [None, 2, 4])
def test_draws_have_the_conditional_of_the_gaussian(rank):
    count = 2000
    draws = jf.gaussian_completions(
        KEY, GAUSSIAN, np.tile(ROW, (count, 1)), np.tile(SEEN, (count, 1)), rank=rank, progress=False
    )
    assert draws.dtype == np.float32
    np.testing.assert_array_equal(draws[:, SEEN], np.tile(ROW[SEEN].astype(np.float32), (count, 1)))
    hidden = draws[:, ~SEEN].astype(np.float64)
    covariance = FACTOR @ FACTOR.T
    gain = covariance[np.ix_(~SEEN, SEEN)] @ np.linalg.inv(covariance[np.ix_(SEEN, SEEN)])
    expected = covariance[np.ix_(~SEEN, ~SEEN)] - gain @ covariance[np.ix_(SEEN, ~SEEN)]
    middle = GAUSSIAN.mean[~SEEN] + gain @ (ROW[SEEN] - GAUSSIAN.mean[SEEN])
    # two are hidden: no rank is less, and all directions count
    assert np.all(np.abs(hidden.mean(axis=0) - middle) < 5 * np.sqrt(np.diag(expected) / count))
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / count)
    assert np.all(np.abs(np.cov(hidden, rowvar=False) - expected) < 5 * error)


def test_a_few_directions_are_a_gaussian_of_their_own():
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    spectrum = np.concatenate([[9.0, 4.0, 1.0], np.full(37, 0.25)])
    gaussian = Gaussian((4, 10), np.zeros(40), np.linalg.cholesky((axes * spectrum) @ axes.T))
    count = 1500
    rows, seen = np.tile(rng.standard_normal((4, 10)), (count, 1, 1)), np.tile(rng.random((4, 10)) < 0.5, (count, 1, 1))
    draws = jf.gaussian_completions(KEY, gaussian, rows, seen, rank=3, progress=False)
    known = gaussian_conditional(gaussian, rows[:1], seen[:1])
    # the directions that are alike are so: nothing is lost
    hidden = ~seen[0]
    error = known.std[0][hidden] / np.sqrt(count)
    assert np.all(np.abs(draws.mean(axis=0)[hidden] - known.mean[0][hidden]) < 5 * error)
    assert np.all(np.abs(draws.std(axis=0)[hidden] / known.std[0][hidden] - 1) < 5 / np.sqrt(2 * count))


def test_nothing_and_everything_observed_one_row_and_none():
    rows = np.stack([ROW, np.arange(5.0) + 7])
    seen = np.array([[False] * 5, [True] * 5])
    draws = jf.gaussian_completions(KEY, GAUSSIAN, rows, seen, progress=False)
    np.testing.assert_array_equal(draws[1], rows[1].astype(np.float32))
    assert np.all(np.isfinite(draws))
    assert jf.gaussian_completions(KEY, GAUSSIAN, rows[:1], seen[:1], progress=False).shape == (1, 5)
    assert jf.gaussian_completions(KEY, GAUSSIAN, rows[:0], seen[:0], progress=False).shape == (0, 5)


def test_the_draw_of_a_row_does_not_depend_on_the_others():
    rows = np.tile(ROW, (1100, 1)).astype(np.float32)
    seen = np.tile(SEEN, (1100, 1))
    draws = jf.gaussian_completions(KEY, GAUSSIAN, rows, seen, progress=False)
    some = jf.gaussian_completions(KEY, GAUSSIAN, rows[:37], seen[:37], progress=False)
    np.testing.assert_allclose(some, draws[:37], rtol=1e-5, atol=1e-5)
    assert len(np.unique(draws[:, 1])) == len(draws)


@pytest.mark.parametrize(
    ("rows", "seen", "options", "message"),
    [
        (ROW[None, :4], SEEN[None, :4], {}, r"expected rows \(n, \*\(5,\)\); got \(1, 4\)"),
        (ROW[None], SEEN[None].astype(int), {}, "expected a boolean mask"),
        (ROW[None], SEEN[None, :4], {}, "mask of the data's shape"),
        (ROW[None], ~SEEN[None], {}, "expected finite observed entries; got others, first in row 0"),
        (ROW[None], SEEN[None], {"rank": 5}, "expected a rank from 1 to 4, or None for all directions; got 5"),
    ],
)
def test_bad_input_is_refused(rows, seen, options, message):
    with pytest.raises(ValueError, match=message):
        jf.gaussian_completions(KEY, GAUSSIAN, rows, seen, progress=False, **options)


def test_matched_draws_have_the_levels_of_what_was_observed():
    rng = np.random.default_rng(3)
    # black and white, of neighbours that agree
    events = np.repeat(rng.random((2000, 4)) < 0.3, 2, axis=1) + 0.05 * rng.standard_normal((2000, 8))
    observed = rng.random(events.shape) < 0.5
    rows = np.where(observed, events, np.nan)
    gaussian = fit_gaussian_pairs(rows, observed)

    def drawn(matched):
        return jf.gaussian_completions(KEY, gaussian, rows, observed, matched=matched, progress=False)

    plain, matched = drawn(False), drawn(True)
    np.testing.assert_array_equal(matched[observed], events[observed].astype(np.float32))
    shares = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(np.quantile(matched[~observed], shares), np.quantile(events[observed], shares), atol=0.01)
    # ranks are kept, and the error falls
    assert np.all(np.diff(matched[~observed][np.argsort(plain[~observed])]) >= 0)
    error = [np.sqrt(np.mean((filled - events)[~observed] ** 2)) for filled in (plain, matched)]
    assert error[1] < error[0]
    whole = jf.gaussian_completions(KEY, gaussian, events, observed | True, matched=True, progress=False)
    np.testing.assert_array_equal(whole, events.astype(np.float32))
