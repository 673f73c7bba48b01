"""What judges the samplers: exact draws pass, a bias of the mean or of the spread is seen, and quadrature is right."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from benchmarks.known_flows import gaussian_of, matrix_flow, measured_of
from benchmarks.known_posteriors import TAKEN, Known, by_quadrature, standardised_errors, two_sample
from jaxflows import inverse, observe

FACTOR = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [0.2, -0.3, 0.6]])


def test_exact_draws_pass_and_biased_ones_do_not():
    known = Known(np.array([1.0, -1.0, 0.5]), FACTOR @ FACTOR.T, 0.0)
    draws = known.mean + np.random.default_rng(0).standard_normal((4000, 3)) @ FACTOR.T
    exact = standardised_errors(known, draws, np.zeros(4000))
    assert max(exact["z_mean"], exact["z_covariance"]) < 5
    moved = standardised_errors(known, draws + 0.3, np.zeros(4000))
    assert moved["z_mean"] > 5
    wide = standardised_errors(known, known.mean + 1.2 * (draws - known.mean), np.zeros(4000))
    assert wide["z_covariance"] > 5
    assert 0.3 < wide["error_covariance"] < 0.6


def test_weights_undo_a_wrong_proposal_and_directions_without_spread_are_left_out():
    known = Known(np.zeros(2), np.diag([1.0, 0.0]), 0.0)
    draws = np.stack([1.5 * np.random.default_rng(0).standard_normal(8000), np.zeros(8000)], axis=1)
    log_weights = -0.5 * draws[:, 0] ** 2 * (1 - 1 / 1.5**2)
    assert standardised_errors(known, draws, log_weights)["z_covariance"] < 5
    assert standardised_errors(known, draws, np.zeros(8000))["z_covariance"] > 5


def test_where_nothing_is_free_the_worst_error_of_a_sample_counts():
    known = Known(np.ones(2), 1e-12 * np.eye(2), 0.0, before=4.0)
    row = standardised_errors(known, np.array([[1.0, 1.0], [1.0, 1.2]]), np.zeros(2))
    np.testing.assert_allclose(row.pop("error_mean"), 0.1)
    assert np.isnan(list(row.values())).all()
    assert np.isnan(two_sample(known, np.ones((2, 2)), np.zeros(2), np.random.default_rng(0))["two_sample_p"])


def test_the_two_sample_test_passes_exact_draws_and_sees_more_than_moments():
    rng = np.random.default_rng(0)
    known = Known(np.array([1.0, -1.0, 0.5]), FACTOR @ FACTOR.T, 0.0)
    draws = known.mean + rng.standard_normal((1000, 3)) @ FACTOR.T
    exact = two_sample(known, draws, np.zeros(1000), rng)
    assert exact["two_sample_draws"] == TAKEN
    assert exact["two_sample_p"] > 1e-3
    # two modes with the moments of the posterior
    split = 0.98 * rng.choice([-1.0, 1.0], (1000, 3)) + 0.2 * rng.standard_normal((1000, 3))
    split = known.mean + split @ FACTOR.T
    assert max(standardised_errors(known, split, np.zeros(1000))["z_mean"], 0) < 5
    assert two_sample(known, split, np.zeros(1000), rng)["two_sample_p"] == 1e-3
    # weights that undo a wrong spread
    wide = known.mean + 1.3 * (draws - known.mean)
    log_weights = -0.5 * np.sum(np.linalg.solve(FACTOR, (wide - known.mean).T) ** 2, axis=0) * (1 - 1 / 1.3**2)
    assert two_sample(known, wide, log_weights, rng)["two_sample_p"] > 1e-3
    assert two_sample(known, wide, np.zeros(1000), rng)["two_sample_p"] == 1e-3


def test_quadrature_in_the_plane_agrees_with_the_closed_form():
    flow, params = matrix_flow((2,), seed=0)
    matrix = np.array([[0.6, 0.8]])
    reading = inverse.noisy_measurement(observe.linear(matrix), [0.5], noise=inverse.noise.gaussian(0.3))
    seen = by_quadrature(flow, params, reading, 301)
    meant = measured_of(*gaussian_of(flow, params), matrix, 0.3, jnp.array([0.5]))
    for a, b in zip(seen[:3], meant, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    assert abs(seen.draws.mean(axis=0) - seen.mean).max() < 5 * np.sqrt(np.max(seen.covariance) / len(seen.draws))
