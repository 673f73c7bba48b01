"""Posteriors against closed forms: densities, starts, and the Gaussian conditional of affine flows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from benchmarks.posterior_quality import linear_rows
from jaxflows import flows
from jaxflows.conditional import posteriors
from jaxflows.conditional.gauss_newton import gauss_newton_reference, prior_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.sample import draw_samples
from jaxflows.observation import linear, mask
from jaxflows.solvers.chord import chord


@pytest.mark.parametrize("size", [1, 6])
def test_gauss_newton_is_the_conditional_of_an_affine_flow_for_every_mask(size):
    (row,) = linear_rows((size,))
    assert row["error_max"] < 1e-5


def test_gauss_newton_is_the_conditional_of_an_affine_flow_for_a_linear_measurement():
    flow, params = linear_flow(5, seed=1)
    mean, covariance = gaussian_of(flow, params)
    matrix = np.random.default_rng(0).standard_normal((2, 5))
    measured = linear(matrix)
    b = jnp.array([0.3, -1.1])
    where = hidden(measured.observation, 3)
    reference = jax.jit(gauss_newton_reference, static_argnums=0)(flow, params, where, measured.pseudo_inverse(b))
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T)
    centre = mean + gain @ (np.asarray(b) - matrix @ mean)
    basis = np.asarray(jax.vmap(where.expand)(jnp.eye(3))).T
    factor = basis @ np.asarray(reference.spread)
    np.testing.assert_allclose(reference.anchor, centre, atol=1e-5)
    np.testing.assert_allclose(factor @ factor.T, covariance - gain @ matrix @ covariance, atol=1e-5)


def test_bound_of_an_affine_flow_is_the_evidence_with_no_spread():
    flow, params = linear_flow(4, seed=2)
    mean, covariance = gaussian_of(flow, params)
    observed = np.array([True, False, True, False])
    y = np.array([0.5, 9.0, -0.2, 9.0], np.float32)
    run = jax.jit(lambda key, seen, y: draw_samples(key, flow, params, mask(seen), y, num_samples=64, solver=chord()))
    draws = run(jax.random.key(0), observed, y)
    part = covariance[np.ix_(observed, observed)]
    gap = (y - mean)[observed]
    evidence = -0.5 * gap @ np.linalg.solve(part, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * part)[1]
    np.testing.assert_allclose(draws.log_weights, evidence, atol=1e-4)
    assert draws.report.ess > 63.99
    centre, spread = conditional_of(mean, covariance, observed, y)
    samples = np.asarray(draws.samples)[:, ~observed]
    standard = np.linalg.solve(np.linalg.cholesky(spread), (samples - centre).T)
    assert np.all(np.abs(standard.mean(axis=1)) < 5 / np.sqrt(64))
    assert np.all(np.asarray(draws.samples)[:, observed] == y[observed])


FAMILIES = [
    posteriors.gauss_newton(),
    posteriors.prior(),
    posteriors.mean_field(),
    posteriors.householder(num_reflections=3),
    posteriors.householder(num_reflections=3, start="prior"),
    posteriors.full_rank(),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.name}-{f.start}")
def test_density_is_that_of_the_transform_and_starts_standard_normal(family):
    size, used = 5, jnp.array([True, True, True, False, False])
    theta = family.init(jax.random.key(0), size)
    eps = jnp.where(used, jax.random.normal(jax.random.key(1), (size,)), 0.0)

    def density(theta, eps):
        eta = family.transform(theta, used, eps)
        jacobian = jax.jacfwd(lambda e: family.transform(theta, used, jnp.where(used, e, 0.0)))(eps)[:3, :3]
        return eta, posteriors.hidden_normal_log_prob(used, eps) - jnp.linalg.slogdet(jacobian)[1]

    eta, expected = density(theta, eps)
    np.testing.assert_allclose(family.log_prob(theta, used, eta), expected, atol=1e-5)
    np.testing.assert_allclose(expected, posteriors.hidden_normal_log_prob(used, eta), atol=1e-5)
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(2), leaf.shape), theta)
    eta, expected = density(moved, eps)
    np.testing.assert_allclose(family.log_prob(moved, used, eta), expected, atol=1e-5)
    assert np.all(np.asarray(eta)[3:] == 0)


def test_references_agree_where_nothing_is_observed():
    flow = flows.residual(event_shape=(3,), blocks=2, hidden=8)
    params = jax.jit(flow.init)(jax.random.key(0))
    where = hidden(mask(jnp.zeros(3, bool)))
    references = jax.jit(lambda *known: (prior_reference(flow, *known), gauss_newton_reference(flow, *known)))
    plain, newton = references(params, where, jnp.zeros(3))
    np.testing.assert_allclose(newton.mean, 0.0, atol=1e-5)
    np.testing.assert_allclose(newton.scale @ newton.scale.T, plain.scale, atol=1e-4)
    np.testing.assert_allclose(newton.log_det, 0.0, atol=1e-4)


def test_options_are_checked():
    with pytest.raises(ValueError, match="expected start to be one of"):
        posteriors.gauss_newton(start="elsewhere")
    with pytest.raises(ValueError, match="expected num_reflections >= 0; got -1"):
        posteriors.householder(num_reflections=-1)
