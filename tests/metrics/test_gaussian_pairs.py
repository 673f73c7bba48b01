"""The Gaussian of pairwise covariances: what it converges to, complete data, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from jaxflows.data import mcar
from jaxflows.metrics import Gaussian, fit_gaussian, fit_gaussian_pairs

RNG = np.random.default_rng(0)
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.5], [0.2, -0.5, 0.5]])
ROWS = 3.0 + RNG.multivariate_normal(np.zeros(3), COVARIANCE, size=20_000)
OBSERVED = mcar(len(ROWS), (3,), 0.4, seed=1)


def test_of_complete_rows_it_is_the_gaussian():
    ours = fit_gaussian_pairs(ROWS, np.ones(ROWS.shape, bool))
    theirs = fit_gaussian(ROWS, shrinkage=1e-9)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-9)
    np.testing.assert_allclose(ours.factor, theirs.factor, atol=1e-4)


def test_of_rows_missing_at_random_it_is_consistent_and_holes_do_not_matter():
    ours = fit_gaussian_pairs(np.where(OBSERVED, ROWS, np.nan), OBSERVED)
    # 36 % of the rows have a given pair
    error = 2.0 * np.sqrt(2.0 / (0.36 * len(ROWS)))
    assert np.abs(ours.factor @ ours.factor.T - COVARIANCE).max() < 5 * error
    assert np.abs(ours.mean - 3.0).max() < 5 * np.sqrt(2.0 / (0.6 * len(ROWS)))
    other = fit_gaussian_pairs(np.where(OBSERVED, ROWS, 1e6), OBSERVED)
    assert np.array_equal(ours.factor, other.factor)


def test_eigenvalues_are_raised_to_the_scatter_that_negative_ones_show_and_variances_kept():
    # ten entries that are one: of complete rows nine eigenvalues are 0, of rows with holes they scatter to both sides of it
    rows = np.repeat(RNG.standard_normal((400, 1)), 10, axis=1)
    observed = mcar(400, (10,), 0.5, seed=2)
    gaussian = fit_gaussian_pairs(rows, observed)
    centred = np.where(observed, rows - (rows * observed).sum(0) / observed.sum(0), 0.0)
    pairs = centred.T @ centred / (observed.T.astype(float) @ observed)
    spectrum, vectors = np.linalg.eigh(pairs)
    scatter = -spectrum[spectrum < 0].mean()
    assert 0.01 < scatter < 0.3
    raised = (vectors * np.maximum(spectrum, scatter)) @ vectors.T
    scale = np.sqrt(np.diag(pairs) / np.diag(raised))
    expected = scale[:, None] * raised * scale
    np.testing.assert_allclose(np.diag(expected), np.diag(pairs), rtol=1e-12)
    np.testing.assert_allclose(gaussian.factor @ gaussian.factor.T, expected, atol=1e-5)
    noisy = gaussian.with_noise(0.5)
    np.testing.assert_allclose(noisy.factor @ noisy.factor.T, expected + 0.5 * np.eye(10), atol=1e-5)
    np.testing.assert_array_equal(noisy.mean, gaussian.mean)
    with pytest.raises(ValueError, match=r"variance >= 0; got -0\.1"):
        gaussian.with_noise(-0.1)


def test_pairs_never_seen_together_constants_and_image_events():
    rows = np.stack([RNG.standard_normal(50), np.full(50, 2.0), np.zeros(50), np.zeros(50)], axis=1).reshape(-1, 2, 2)
    observed = np.ones(rows.shape, bool)
    observed[::2, 0, 0] = False
    observed[1::2, 1, 1] = False
    gaussian = fit_gaussian_pairs(rows, observed)
    assert gaussian.event_shape == (2, 2)
    assert np.all(np.diag(gaussian.factor) > 0)
    assert abs((gaussian.factor @ gaussian.factor.T)[0, 3]) < 1e-9
    assert np.all(np.diag(fit_gaussian_pairs(np.ones((3, 2)), np.ones((3, 2), bool)).factor) > 0)


def test_a_prior_counts_as_rows_seen_at_every_pair():
    few, seen = ROWS[:60], OBSERVED[:60]
    prior = fit_gaussian_pairs(ROWS, OBSERVED)
    ours = fit_gaussian_pairs(few, seen, prior=prior, prior_rows=30.0)
    held = np.where(seen, few, 0.0)
    counts = seen.sum(axis=0)
    mean = (held.sum(axis=0) + 30 * prior.mean) / (counts + 30)
    centred = np.where(seen, few - mean, 0.0)
    pairs = seen.T.astype(float) @ seen
    covariance = (centred.T @ centred + 30 * prior.factor @ prior.factor.T) / (pairs + 30)
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(ours.factor @ ours.factor.T, covariance, rtol=1e-4, atol=1e-5)
    # many rows outweigh it, and it outweighs few
    strong = fit_gaussian_pairs(few, seen, prior=prior, prior_rows=1e9)
    np.testing.assert_allclose(strong.factor, prior.factor, atol=1e-4)
    never = fit_gaussian_pairs(few, seen & np.array([True, False, True]), prior=prior, prior_rows=30.0)
    assert never.mean[1] == pytest.approx(prior.mean[1])
    assert (never.factor @ never.factor.T)[1, 1] == pytest.approx((prior.factor @ prior.factor.T)[1, 1], rel=1e-4)


@pytest.mark.parametrize(
    ("rows", "observed", "options", "message"),
    [
        (ROWS, OBSERVED & np.array([True, False, True]), {}, "got none for column 1: nothing can be learnt"),
        (np.where(np.arange(len(ROWS))[:, None] == 5, np.inf, ROWS), np.ones(ROWS.shape, bool), {}, "first in row 5"),
        (ROWS[:1], OBSERVED[:1], {}, "at least two rows"),
        (ROWS, OBSERVED[:, :2], {}, "mask of the data's shape"),
        (ROWS, OBSERVED, {"floor": 0.0}, "floor > 0"),
        (ROWS, OBSERVED, {"floor": np.nan}, "floor > 0"),
        (ROWS, OBSERVED, {"prior_rows": 0.0}, "expected finite prior_rows > 0; got 0.0"),
        (ROWS, OBSERVED, {"prior": Gaussian((2,), np.zeros(2), np.eye(2))}, r"prior of events \(3,\); got \(2,\)"),
    ],
)
def test_bad_input_is_refused(rows, observed, options, message):
    with pytest.raises(ValueError, match=message):
        fit_gaussian_pairs(rows, observed, **options)
