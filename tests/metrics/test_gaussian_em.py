"""EM for a Gaussian: the closed form where nothing is missing, a likelihood that never falls, a known answer, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from jaxflows.data import mar, mcar
from jaxflows.metrics import fit_gaussian, fit_gaussian_em, gaussian_conditional, observed_log_likelihood

RNG = np.random.default_rng(0)
FACTOR = RNG.standard_normal((4, 4)) + np.eye(4)
MEAN = np.array([1.0, -2.0, 0.5, 10.0])
ROWS = MEAN + RNG.standard_normal((400, 4)) @ FACTOR.T
OBSERVED = mcar(400, (4,), 0.4, seed=3)


def test_with_nothing_missing_it_is_the_closed_form_in_one_step():
    ours, report = fit_gaussian_em(ROWS, np.ones(ROWS.shape, bool))
    closed = fit_gaussian(ROWS)
    np.testing.assert_allclose(ours.mean, closed.mean, rtol=1e-12)
    np.testing.assert_allclose(ours.factor, closed.factor, rtol=1e-9, atol=1e-12)
    assert report.converged
    # one step to arrive, and one to see that it has
    assert report.steps == 2


def test_the_objective_never_falls_and_what_stands_in_holes_says_nothing():
    first, report = fit_gaussian_em(np.where(OBSERVED, ROWS, np.nan), OBSERVED)
    second, _ = fit_gaussian_em(np.where(OBSERVED, ROWS, 1e6), OBSERVED)
    assert report.converged
    assert report.objective.shape == (report.steps + 1,)
    assert np.all(np.diff(report.objective) >= -1e-12)
    assert report.objective[-1] > report.objective[0] + 0.1
    np.testing.assert_array_equal(first.factor, second.factor)


def test_at_the_end_the_gradient_of_the_likelihood_vanishes():
    gaussian, _ = fit_gaussian_em(ROWS, OBSERVED, shrinkage=1e-12, tol=0.0, max_steps=3000)
    best = observed_log_likelihood(gaussian, ROWS, OBSERVED).mean()
    rng = np.random.default_rng(1)
    for _ in range(10):
        # first-order terms would show as a rise on one side: 1e-4 times a gradient above 1e-3
        shift, turn = rng.standard_normal(4), np.tril(rng.standard_normal((4, 4)))
        for step in (1e-4, -1e-4):
            moved = gaussian._replace(mean=gaussian.mean + step * shift, factor=gaussian.factor + step * turn)
            assert observed_log_likelihood(moved, ROWS, OBSERVED).mean() < best


def test_likelihoods_are_scipys():
    gaussian = fit_gaussian(ROWS)
    covariance = gaussian.factor @ gaussian.factor.T
    ours = observed_log_likelihood(gaussian, np.where(OBSERVED, ROWS, np.nan), OBSERVED)
    for row, o, value in zip(ROWS[:20], OBSERVED[:20], ours[:20], strict=True):
        expected = 0.0
        if o.any():
            expected = stats.multivariate_normal(gaussian.mean[o], covariance[np.ix_(o, o)]).logpdf(row[o])
        np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_under_mar_it_is_unbiased_where_the_observed_mean_is_not():
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((4000, 2)) @ np.array([[1.0, 0.9], [0.0, 0.5]])
    observed = mar(rows, 0.5, always=(0,), strength=3.0, seed=2)
    gaussian, report = fit_gaussian_em(rows, observed, tol=1e-9)
    error = rows[:, 1].std() / np.sqrt(2000)
    assert report.converged
    assert abs(rows[observed[:, 1], 1].mean()) > 5 * error
    assert abs(gaussian.mean[1]) < 5 * error


def test_images_empty_rows_and_conditioning():
    observed = OBSERVED.reshape(-1, 2, 2).copy()
    observed[7] = False
    gaussian, report = fit_gaussian_em(ROWS.reshape(-1, 2, 2), observed)
    assert report.empty_rows == 1 + np.sum(~OBSERVED.any(axis=1)) - (not OBSERVED[7].any())
    completion = gaussian_conditional(gaussian, ROWS[:3].reshape(3, 2, 2), observed[:3])
    assert np.isfinite(completion.mean).all()
    assert fit_gaussian_em(np.ones((3, 2)), np.ones((3, 2), bool))[0].factor[0, 0] > 0


@pytest.mark.parametrize(
    ("rows", "observed", "options", "message"),
    [
        (ROWS, OBSERVED & np.array([True, False, True, True]), {}, "got none for column 1: nothing can be learnt"),
        (ROWS, OBSERVED.astype(int), {}, "boolean mask"),
        (ROWS, OBSERVED[:, :3], {}, r"mask of the data's shape \(400, 4\), one for each row; got \(400, 3\)"),
        (np.where(np.arange(400)[:, None] == 5, np.inf, ROWS), np.ones((400, 4), bool), {}, "first in row 5"),
        (ROWS[:1], OBSERVED[:1], {}, "at least two rows"),
        (ROWS, OBSERVED, {"shrinkage": 0.0}, "shrinkage > 0"),
        (ROWS, OBSERVED, {"max_steps": 0}, "max_steps >= 1"),
        (ROWS, OBSERVED, {"tol": -1.0}, "tol >= 0"),
    ],
)
def test_bad_input_is_refused(rows, observed, options, message):
    with pytest.raises(ValueError, match=message):
        fit_gaussian_em(rows, observed, **options)
