"""Test scores against closed forms."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from jaxflows import flows
from jaxflows.log_det.estimators import power_series
from jaxflows.training.evaluate import (
    LogLikelihood,
    estimated_log_likelihood,
    flow_log_likelihood,
    gaussian_log_likelihood,
    summarise,
)


def test_gaussian_scores_are_scipys():
    rng = np.random.default_rng(0)
    rows, factor = rng.normal(size=(20, 2, 2)), rng.normal(size=(4, 4))
    mean, covariance = rng.normal(size=4), factor @ factor.T + np.eye(4)
    expected = stats.multivariate_normal(mean, covariance).logpdf(rows.reshape(20, 4)) / 4
    score = gaussian_log_likelihood(mean, covariance, rows)
    np.testing.assert_allclose(score.nats, expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(score.std_error, stats.sem(expected), rtol=1e-12)
    assert score.rows == 20


@pytest.fixture(scope="module")
def model():
    """A flow, its parameters and seven rows."""
    flow = flows.residual(event_shape=(3,), blocks=2, hidden=4)
    return flow, jax.jit(flow.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (7, 3))


def test_flow_scores_are_its_log_prob(model):
    flow, params, rows = model
    log_prob = jax.jit(flow.log_prob)
    expected = np.array([log_prob(params, y) for y in rows]) / 3
    score = flow_log_likelihood(flow, params, rows, batch_size=4)
    np.testing.assert_allclose(score.nats, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(score.std_error, stats.sem(expected), rtol=1e-4)


def test_estimated_scores_are_those_of_the_estimator_at_a_key_a_row(model):
    flow, params, rows = model
    series = power_series(terms=5)
    score = estimated_log_likelihood(jax.random.key(2), flow, params, rows, series, batch_size=4)
    estimate = jax.jit(jax.vmap(lambda k, y: flow.estimate_log_prob(k, params, y, series)))
    expected = estimate(jax.random.split(jax.random.key(2), 7), rows)
    np.testing.assert_allclose(score.nats, expected.value.mean() / 3, rtol=1e-5)
    np.testing.assert_allclose(score.std_error, stats.sem(expected.value / 3), rtol=1e-4)
    np.testing.assert_allclose(score.truncation_bound, expected.truncation_bound[0] / 3, rtol=1e-5)


def test_bits_of_the_uniform_density_count_its_levels():
    assert LogLikelihood(0.0, 0.0, 2).bits(256) == 8.0
    np.testing.assert_allclose(LogLikelihood(-math.log(2.0), 0.0, 2).bits(), 1.0)


@pytest.mark.parametrize("shape", [(1,), (3, 2)])
def test_scores_need_two_rows(shape):
    with pytest.raises(ValueError, match=r"shape \(n,\), n >= 2"):
        summarise(np.zeros(shape), 3)
