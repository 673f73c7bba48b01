"""Estimators of log det(I + J): values, gradients, bounds and error bars, judged by five standard errors."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxflows.log_det.estimators import (
    _always_reached,
    _trace_series,
    exact,
    power_series,
    russian_roulette,
    truncation_bound,
)

D = 3
SIGNS = np.asarray(list(itertools.product((-1.0, 1.0), repeat=D)))


def network(params, u):
    return jnp.tanh(u @ params["first"]) @ params["second"]


def case(lipschitz, dtype=np.float32):
    """Parameters whose network has a Jacobian of norm close to ``lipschitz`` at the event."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(shape) for shape in ((D, 5), (5, D)))
    first, second = first / np.linalg.norm(first, 2), lipschitz * second / np.linalg.norm(second, 2)
    params = {"first": jnp.asarray(first, dtype), "second": jnp.asarray(second, dtype)}
    return params, jnp.asarray(0.1 * rng.standard_normal(D), dtype)


@jax.jit
def truth_and_slope(params, u):
    value, slope = jax.value_and_grad(lambda inputs: exact()(None, network, 1.0, *inputs).value)((params, u))
    return value, ravel_pytree(slope)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draws(estimator, lipschitz, count, params, u):
    """``count`` independent values, and their gradients in the parameters and the event, flattened."""

    def one(key):
        def value(inputs):
            return estimator(key, network, lipschitz, *inputs).value

        seen, gradient = jax.value_and_grad(value)((params, u))
        return seen, ravel_pytree(gradient)[0]

    return jax.vmap(one)(jax.random.split(jax.random.key(1), count))


def z_scores(samples, truth):
    samples = np.asarray(samples, np.float64)
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    return np.abs(np.mean(samples, axis=0) - truth) / np.maximum(error, 1e-6)


@functools.cache
def _series_by_terms(lipschitz):
    """The truncated series and its gradient for 1..80 terms, averaged over ALL sign vectors: no sampling error."""
    with jax.enable_x64(True):
        params, u = case(lipschitz, np.float64)

        def mean_value(inputs, terms):
            one = lambda probe: _trace_series(network, _always_reached, *inputs, (probe, terms))  # noqa: E731
            return jnp.mean(jax.vmap(one)(jnp.asarray(SIGNS)))

        def both(terms):
            value, gradient = jax.value_and_grad(mean_value)((params, u), terms)
            return value, ravel_pytree(gradient)[0]

        values, gradients = jax.jit(lambda n: jax.lax.map(both, n))(jnp.arange(1, 81, dtype=jnp.int32))
        truth, slope = truth_and_slope(params, u)
        return np.asarray(values), np.asarray(gradients), float(truth), np.asarray(slope)


@pytest.mark.parametrize("lipschitz", [0.3, 0.9])
def test_the_truncation_bound_holds_for_every_number_of_terms(lipschitz):
    values, _, truth, _ = _series_by_terms(lipschitz)
    with jax.enable_x64(True):
        bounds = [float(truncation_bound(lipschitz, D, n, np.float64)) for n in range(1, 81)]
    assert np.all(np.abs(values - truth) <= np.asarray(bounds) + 1e-12)
    assert np.all(np.diff(bounds) < 0)
    assert abs(values[0] - truth) > 1e-4


def test_with_the_complete_probe_set_value_and_gradient_are_the_exact_ones():
    values, gradients, truth, slope = _series_by_terms(0.3)
    np.testing.assert_allclose(values[-1], truth, atol=1e-12)
    np.testing.assert_allclose(gradients[-1], slope, atol=1e-12)
    # and with few terms the gradient is that of the same truncated series, not yet the exact one
    assert np.max(np.abs(gradients[0] - slope)) > 1e-3


def test_the_bound_covers_the_tail_in_float32_where_the_difference_cancels():
    for lipschitz, terms in ((0.5, 40), (0.9, 300), (0.95, 10)):
        k = np.arange(terms + 1, terms + 4000)
        tail = D * np.sum(lipschitz**k / k)
        bound = float(truncation_bound(lipschitz, D, terms, jnp.float32))
        assert tail <= bound * (1 + 1e-5)
        assert bound <= 15 * tail


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_power_series_is_right_within_its_bound_and_its_error(probe):
    params, u = case(0.8)
    estimator = power_series(terms=8, probes=20_000, probe=probe)
    result = jax.jit(lambda key: estimator(key, network, 0.8, params, u))(jax.random.key(2))
    off = abs(float(result.value - truth_and_slope(params, u)[0]))
    assert off <= float(result.truncation_bound) + 5 * float(result.std_error)
    assert 0 < float(result.std_error) < 0.05


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_roulette_is_unbiased_in_value_and_gradient(q, probe):
    lipschitz = 0.6
    assert lipschitz**2 < q
    params, u = case(lipschitz)
    estimator = russian_roulette(exact_terms=2, continuation=q, probe=probe)
    values, gradients = draws(estimator, lipschitz, 4000, params, u)
    truth, slope = truth_and_slope(params, u)
    assert z_scores(values, float(truth)) < 5
    assert np.max(z_scores(gradients, np.asarray(slope))) < 5


def test_the_default_continuation_is_unbiased_near_the_limit_where_a_half_has_no_variance():
    params, u = case(0.95)
    values, gradients = draws(russian_roulette(), 0.95, 4000, params, u)
    truth, slope = truth_and_slope(params, u)
    assert z_scores(values, float(truth)) < 5
    assert np.max(z_scores(gradients, np.asarray(slope))) < 5


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_half_the_identity_has_log_det_d_log_three_halves(q):
    # torchflows, test_stochastic_log_det_estimation.py (skipped by its authors); and the VALUE is right in training too
    size, count = 10, 4000

    def one(key):
        estimator = russian_roulette(exact_terms=4, continuation=q)
        value = lambda gain: estimator(key, lambda g, u: g * u, 0.5, gain, jnp.ones(size)).value  # noqa: E731
        return jax.value_and_grad(value)(jnp.float32(0.5))

    values, gradients = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), count))
    assert z_scores(values, size * np.log(1.5)) < 5
    assert z_scores(gradients, size / 1.5) < 5
    # what the common estimator returns in training instead of the log-determinant: tr J (I + J)^-1
    assert z_scores(values, size * 0.5 / 1.5) > 5


@pytest.mark.parametrize("estimator", [power_series(terms=5), russian_roulette()])
def test_every_example_keeps_its_own_cotangent(estimator):
    params, u = case(0.7)
    batch = jnp.stack([u + 0.1 * i for i in range(8)])
    keys = jax.random.split(jax.random.key(4), 8)
    weights = jnp.zeros(8).at[0].set(1.0)

    def weighted(params, batch):
        values = jax.vmap(lambda k, row: estimator(k, network, 0.7, params, row).value)(keys, batch)
        return weights @ values

    by_params, by_batch = jax.jit(jax.grad(weighted, argnums=(0, 1)))(params, batch)
    np.testing.assert_array_equal(by_batch[1:], 0.0)
    assert np.all(np.asarray(by_batch[0]) != 0)
    single = jax.jit(jax.grad(lambda p: estimator(keys[0], network, 0.7, p, batch[0]).value))(params)
    for seen, meant in zip(jax.tree.leaves(by_params), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(seen, meant, rtol=1e-4, atol=1e-6)


def test_memory_does_not_grow_with_the_terms():
    params, u = case(0.7)

    def temporary_bytes(terms):
        estimator = power_series(terms=terms)
        gradient = jax.grad(lambda p: estimator(jax.random.key(0), network, 0.7, p, u).value)
        return jax.jit(gradient).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4) == temporary_bytes(64)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_reported_error_is_the_spread_seen(probe):
    params, u = case(0.8)
    estimator = power_series(terms=6, probes=8, probe=probe)
    one = jax.jit(jax.vmap(lambda k: estimator(k, network, 0.8, params, u)))
    count = 4000
    seen = one(jax.random.split(jax.random.key(5), count))
    empirical = np.var(np.asarray(seen.value, np.float64), ddof=1)
    squared = np.asarray(seen.std_error, np.float64) ** 2
    # both sides estimate the same variance; five standard errors of the difference (normal theory for the first)
    error = np.hypot(empirical * np.sqrt(2 / count) * 1.5, np.std(squared) / np.sqrt(count))
    assert abs(empirical - np.mean(squared)) < 5 * error


def test_one_probe_knows_no_error_and_exact_has_none():
    params, u = case(0.7)
    assert power_series(probes=1)(jax.random.key(0), network, 0.7, params, u).std_error == np.inf
    assert russian_roulette(probes=1)(jax.random.key(0), network, 0.7, params, u).std_error == np.inf
    result = exact()(jax.random.key(0), network, 0.7, params, u)
    assert (float(result.std_error), float(result.truncation_bound)) == (0.0, 0.0)
    assert float(russian_roulette()(jax.random.key(0), network, 0.7, params, u).truncation_bound) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_series(terms=0), "got 0 and 1"),
        (lambda: power_series(probes=0), "got 10 and 0"),
        (lambda: power_series(probe="uniform"), "expected a probe of \\['gaussian', 'rademacher'\\]; got 'uniform'"),
        (lambda: russian_roulette(exact_terms=0), "got 0 and 1"),
        (lambda: russian_roulette(continuation=1.0), "expected 0 < continuation < 1; got 1.0"),
    ],
)
def test_bad_options_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
