"""Importance-weight diagnostics against closed forms and an independent Pareto fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.conditional.diagnostics import pareto_k, resample, usable, weight_report

report_of = jax.jit(weight_report)


def test_equal_weights_are_worth_every_draw():
    report = report_of(jnp.full(30, -3.0))
    np.testing.assert_allclose(report.ess, 30, rtol=1e-5)
    np.testing.assert_allclose([report.bound, report.iw_bound], -3.0, rtol=1e-6)
    np.testing.assert_allclose(report.bound_std_error, 0.0, atol=1e-6)


def test_unusable_draws_have_weight_zero_and_are_counted():
    weights = usable(jnp.array([0.0, 0.0, jnp.nan, 5.0]), jnp.array([True, True, True, False]))
    report = report_of(weights)
    np.testing.assert_allclose(report.ess, 2.0, rtol=1e-6)
    np.testing.assert_allclose(report.bound, 0.0, atol=1e-6)
    np.testing.assert_allclose(report.iw_bound, np.log(0.5), rtol=1e-5)


def test_nothing_usable_is_said_and_not_nan():
    report = report_of(jnp.full(30, -jnp.inf))
    assert report.ess == 0
    assert report.bound == -jnp.inf
    assert report.bound_std_error == jnp.inf


ks_of = jax.jit(jax.vmap(pareto_k))


@pytest.mark.parametrize("shape", [0.2, 0.6, 1.0])
def test_pareto_k_recovers_the_tail_of_pareto_weights(shape):
    # weights with a Pareto tail of shape k: w = U^(-k)
    uniform = jax.random.uniform(jax.random.key(0), (50, 4000))
    ks = np.asarray(ks_of(-shape * jnp.log(uniform)))
    error = ks.std(ddof=1) / np.sqrt(len(ks))
    tail = int(min(4000 / 5, 3 * 4000**0.5))
    prior_pull = (0.5 - shape) * 10 / (tail + 10)
    # the estimator's own bias at 190 tail weights is below a tenth of the shape's unit
    assert abs(ks.mean() - shape - prior_pull) < 5 * error + 0.05


def test_pareto_k_needs_a_tail():
    assert np.isnan(pareto_k(jnp.zeros(24)))
    assert np.isnan(report_of(jnp.where(jnp.arange(30) < 3, 0.0, -jnp.inf)).pareto_k)


def test_resampling_is_unbiased_for_the_weighted_mean():
    key = jax.random.key(1)
    samples = jax.random.normal(key, (50, 2))
    weights = jax.random.normal(jax.random.key(2), (50,))
    expected = jax.nn.softmax(weights) @ samples
    means = np.asarray(jax.jit(jax.vmap(lambda k: resample(k, samples, weights, 20).mean(axis=0)))(jax.random.split(key, 2000)))
    error = means.std(axis=0) / np.sqrt(2000)
    assert np.all(np.abs(means.mean(axis=0) - expected) < 5 * error)


def test_weight_report_under_jit_vmap_and_grad():
    weights = jax.random.normal(jax.random.key(3), (3, 30))
    batch = jax.jit(jax.vmap(weight_report))(weights)
    alone = weight_report(weights[1])
    for many, one in zip(batch, alone, strict=True):
        np.testing.assert_allclose(many[1], one, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda w: weight_report(w).iw_bound))(weights[0])
    np.testing.assert_allclose(gradient, jax.nn.softmax(weights[0]), atol=1e-6)
