"""The Gaussian baseline against the textbook formula, brute force, and the digits it is shipped for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxflows.data import load_digits_sample, named_mask
from jaxflows.metrics import Gaussian, fit_gaussian, gaussian_conditional, load_mnist_gaussian

COVARIANCE = np.array([[2.0, 0.8, -0.3], [0.8, 1.0, 0.4], [-0.3, 0.4, 1.5]])
MEAN = np.array([1.0, -2.0, 0.5])
GAUSSIAN = Gaussian((3,), MEAN, np.linalg.cholesky(COVARIANCE))


@pytest.mark.parametrize("observed", list(itertools.product([True, False], repeat=3)))
def test_mean_and_deviation_by_the_precision_matrix(observed):
    o = np.array(observed)
    h = ~o
    y = np.where(o, [0.3, 0.1, -1.0], np.nan)
    result = gaussian_conditional(GAUSSIAN, y[None], o[None])
    np.testing.assert_array_equal(result.mean[0, o], y[o])
    np.testing.assert_array_equal(result.std[0, o], 0.0)
    # the other textbook form: with P = C^-1, C_H|O = P_HH^-1 and the mean is mu_H - P_HH^-1 P_HO (y_O - mu_O)
    precision = np.linalg.inv(COVARIANCE)
    conditional = np.linalg.inv(precision[np.ix_(h, h)])
    mean = MEAN[h] - conditional @ precision[np.ix_(h, o)] @ (y[o] - MEAN[o])
    np.testing.assert_allclose(result.mean[0, h], mean, rtol=1e-12)
    np.testing.assert_allclose(result.std[0, h], np.sqrt(np.diagonal(conditional)), rtol=1e-12)
    assert result.samples.shape == (1, 0, 3)


def test_samples_have_the_conditional_moments():
    o = np.array([False, True, False])
    draws = 20_000
    result = gaussian_conditional(GAUSSIAN, np.array([[0.0, 0.1, 0.0]]), o[None], num_samples=draws, seed=1)
    samples = result.samples[0]
    np.testing.assert_array_equal(samples[:, 1], 0.1)
    assert np.all(np.abs(samples.mean(0) - result.mean[0])[~o] <= 5 * result.std[0, ~o] / np.sqrt(draws))
    # the conditional covariance of entries 0 and 2 given 1
    covariance = COVARIANCE[0, 2] - COVARIANCE[0, 1] * COVARIANCE[1, 2] / COVARIANCE[1, 1]
    products = np.prod(samples[:, [0, 2]] - result.mean[0, [0, 2]], axis=1)
    assert abs(products.mean() - covariance) < 5 * products.std() / np.sqrt(draws)


def test_equal_seeds_give_equal_samples_row_by_row():
    rows, observed = np.zeros((2, 3)), np.array([[True, False, False]] * 2)
    both = gaussian_conditional(GAUSSIAN, rows, observed, num_samples=3, seed=5).samples
    first = gaussian_conditional(GAUSSIAN, rows[:1], observed[:1], num_samples=3, seed=5).samples
    np.testing.assert_array_equal(both[:1], first)
    assert (both[0] != both[1]).any()
    assert (gaussian_conditional(GAUSSIAN, rows, observed, num_samples=3, seed=6).samples != both).any()


def test_rows_that_share_a_mask_are_completed_as_alone():
    rows = np.random.default_rng(3).standard_normal((4, 3))
    observed = np.array([[True, True, False], [True, True, False], [False, True, False], [True, True, False]])
    together = gaussian_conditional(GAUSSIAN, rows, observed)
    for i in range(4):
        alone = gaussian_conditional(GAUSSIAN, rows[i : i + 1], observed[i : i + 1])
        np.testing.assert_array_equal(together.mean[i], alone.mean[0])
        np.testing.assert_array_equal(together.std[i], alone.std[0])


def test_fitting_recovers_the_moments_and_keeps_the_shape():
    rng = np.random.default_rng(0)
    rows = (MEAN + rng.standard_normal((50_000, 3)) @ GAUSSIAN.factor.T).reshape(-1, 3, 1)
    fitted = fit_gaussian(rows)
    assert fitted.event_shape == (3, 1)
    np.testing.assert_allclose(fitted.mean, rows[..., 0].mean(0), rtol=1e-12)
    ridge = 1e-4 * np.trace(np.cov(rows[..., 0].T, bias=True)) / 3
    expected = np.cov(rows[..., 0].T, bias=True) + ridge * np.eye(3)
    np.testing.assert_allclose(fitted.factor @ fitted.factor.T, expected, rtol=1e-9)


def test_constant_columns_are_completed_by_their_constant():
    rows = np.stack([np.arange(10.0), np.full(10, 7.0)], 1)
    result = gaussian_conditional(fit_gaussian(rows), np.array([[3.0, np.nan]]), np.array([[True, False]]), num_samples=4)
    np.testing.assert_allclose(result.mean[0, 1], 7.0, atol=1e-9)
    assert np.isfinite(result.samples).all()
    assert np.isfinite(fit_gaussian(np.ones((3, 2))).factor).all()


def test_the_shipped_gaussian_completes_test_digits():
    """At 50% missing its error is under half of that of the mean digit."""
    images = load_digits_sample()[0][:60] / 255
    observed = np.stack([named_mask("missing:0.5", (28, 28), seed) for seed in range(60)])
    gaussian = load_mnist_gaussian()
    completed = gaussian_conditional(gaussian, images, observed).mean
    error = np.sqrt(np.mean((completed - images)[~observed] ** 2))
    plain = np.sqrt(np.mean((gaussian.mean.reshape(28, 28) - images)[~observed] ** 2))
    assert error < 0.1
    assert plain > 2 * error


def test_bad_input_is_refused():
    rows, observed = np.zeros((2, 3)), np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="got \\(2, 2\\) and bool"):
        gaussian_conditional(GAUSSIAN, rows[:, :2], observed)
    with pytest.raises(ValueError, match=r"got .* and int64"):
        gaussian_conditional(GAUSSIAN, rows, observed.astype(np.int64))
    with pytest.raises(ValueError, match="at least two rows"):
        fit_gaussian(rows[:1])
    with pytest.raises(ValueError, match="first in row 1"):
        fit_gaussian(np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match="shrinkage > 0"):
        fit_gaussian(rows, shrinkage=0)
