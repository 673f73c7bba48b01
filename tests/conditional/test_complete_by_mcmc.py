"""Exact chains: closed forms, quadrature where q is wrong, and what a user may get wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from jaxflows.adapters import from_functions
from jaxflows.conditional import posteriors

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def linear():
    flow, params = linear_flow(5, seed=1)
    rows = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    observed = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    # the prior as q, which is wrong: the chains have to find the conditional
    done = jf.complete_by_mcmc(
        KEY, flow, params, np.where(observed, rows, np.nan), observed, chains=8, warm_up=100, draws=100, thin=4,
        posterior=posteriors.prior(), progress=False,
    )  # fmt: skip
    return flow, params, rows, observed, done


@pytest.mark.long
def test_chains_have_the_moments_of_an_affine_flows_conditional(linear):
    flow, params, rows, observed, done = linear
    mean, covariance = gaussian_of(flow, params)
    for row in range(2):
        centre, spread = conditional_of(mean, covariance, observed[row], rows[row])
        white = np.linalg.solve(np.linalg.cholesky(spread), (done.samples[row][:, ~observed[row]] - centre).T)
        ess = done.info.ess[row]
        assert ess > 200
        assert done.info.r_hat[row] < 1.05
        assert np.all(np.abs(white.mean(axis=1)) < 5 / np.sqrt(ess))
        np.testing.assert_allclose(np.cov(white), np.eye(len(white)), atol=5 * np.sqrt(2 / ess))
        np.testing.assert_allclose(done.mean[row], done.samples[row].mean(axis=0, dtype=float), atol=1e-6)
        assert 0.4 < done.info.acceptance[row] < 0.8
    assert (done.info.unsolved[:2] == 0).all()
    assert (done.info.started[:2] == 1).all()


def test_observed_entries_and_whole_rows_come_back_as_given(linear):
    _, _, rows, observed, done = linear
    for row in range(3):
        assert (done.samples[row][:, observed[row]] == rows[row, observed[row]]).all()
    assert (done.std[2] == 0).all()
    assert done.info.solves[2] == 0
    assert done.info.done.all()


def test_log_weights_are_those_of_the_prior_as_q(linear):
    flow, params, _, observed, done = linear
    encode = lambda y: flow.encode(params, y)  # noqa: E731
    jacobian = np.asarray(jax.jit(jax.jacfwd(encode))(jnp.zeros(5)), float)
    for row in range(2):
        hidden = ~observed[row]
        x = np.asarray(jax.jit(jax.vmap(encode))(done.samples[row]), float)[:, ~hidden]
        # log p(y) - log q(y_hidden): what the hidden latents add cancels
        expected = -0.5 * np.sum(x**2 + np.log(2 * np.pi), axis=1) + np.linalg.slogdet(jacobian)[1]
        expected -= np.linalg.slogdet(jacobian[np.ix_(hidden, hidden)])[1]
        np.testing.assert_allclose(done.log_weights[row], expected, atol=1e-3)


@pytest.mark.long
def test_chains_follow_a_bent_conditional_that_q_misses():
    """y_1 = x_1, y_2 = x_2 exp(y_1): given y_2, the density of y_1 is skewed, and known by quadrature."""
    flow, params = from_functions(
        event_shape=(2,),
        encode=lambda p, y: jnp.stack([y[0], p["scale"] * y[1] * jnp.exp(-y[0])]),
        decode=lambda p, x: jnp.stack([x[0], x[1] * jnp.exp(x[0]) / p["scale"]]),
        log_det=lambda p, y: jnp.log(p["scale"]) - y[0],
        params={"scale": jnp.asarray(1.0)},
    )
    row, observed = np.array([[np.nan, 3.0]], np.float32), np.array([[False, True]])
    done = jf.complete_by_mcmc(KEY, flow, params, row, observed, chains=8, warm_up=100, draws=100, thin=4, progress=False)
    grid = np.linspace(-8, 8, 40_001)
    log_p = -0.5 * grid**2 - 0.5 * (3.0 * np.exp(-grid)) ** 2 - grid
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    samples, ess = done.samples[0, :, 0], done.info.ess[0]
    assert ess > 300
    assert done.info.r_hat[0] < 1.05
    weights = np.exp(done.log_weights[0] - done.log_weights[0].max())
    assert weights.std() / weights.mean() > 0.05
    for test in (lambda t: t, np.square, lambda t: t > 1.5, lambda t: t < 0.2):
        values = test(grid)
        expected = np.sum(p * values)
        error = np.sqrt((np.sum(p * np.square(values)) - expected**2) / ess)
        assert abs(np.mean(test(samples)) - expected) < 5 * error


def test_what_does_not_fit_is_refused_before_any_work():
    flow, params = linear_flow(5, seed=1)
    row, observed = np.zeros((1, 5), np.float32), np.zeros((1, 5), bool)
    for options, message in (
        ({"chains": 1}, "expected chains >= 2; got 1"),
        ({"draws": 3}, "expected draws >= 4; got 3"),
        ({"partition": "diagonal"}, "expected a partition"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.complete_by_mcmc(KEY, flow, params, row, observed, **options)
