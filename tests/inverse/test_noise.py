"""Noise models: densities that integrate to one, residuals that vanish where they should, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks.known_flows import gaussian_of, matrix_flow
from jaxflows.inverse import noise

CLEAN = 0.7
FINE = np.linspace(-12.0, 12.0, 24_001)


@jax.jit
def log_probs(model, b, clean):
    """Densities of single readings, and their slopes in what was measured."""
    return jax.vmap(jax.value_and_grad(lambda c, r: model.log_prob(r[None], c[None])))(clean, b)


def densities(model, values):
    b = jnp.asarray(values, jnp.float32)
    return np.exp(np.asarray(log_probs(model, b, jnp.full(b.shape, CLEAN))[0], float))


def slope(model, b, clean):
    return np.asarray(log_probs(model, jnp.full(np.shape(clean), b, jnp.float32), jnp.asarray(clean, jnp.float32))[1])


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        (noise.gaussian(0.4), scipy.stats.norm(CLEAN, 0.4)),
        (noise.laplace([0.4]), scipy.stats.laplace(CLEAN, 0.4)),
    ],
)
def test_continuous_noise_has_its_density(model, meant):
    np.testing.assert_allclose(densities(model, FINE[::500]), meant.pdf(FINE[::500]), rtol=2e-5, atol=1e-12)


def test_counts_have_the_poisson_law_and_rates_below_zero_a_gradient_that_leads_out():
    counts = np.arange(12.0)
    model = noise.poisson(3.0)
    np.testing.assert_allclose(densities(model, counts), scipy.stats.poisson(3.0 * CLEAN).pmf(counts), rtol=2e-5)
    np.testing.assert_array_equal(densities(model, [1.5, -1.0]), 0.0)
    (gradient,) = slope(model, 2.0, [-0.5])
    assert 0 < gradient < np.inf


def test_levels_have_the_mass_of_their_cells_far_into_both_tails():
    model = noise.quantised(0.25, 0.4)
    levels = 0.25 * np.arange(-20, 25)
    meant = scipy.stats.norm(CLEAN, 0.4)
    low, high = levels - 0.125, levels + 0.125
    mass = np.where(levels > CLEAN, meant.sf(low) - meant.sf(high), meant.cdf(high) - meant.cdf(low))
    np.testing.assert_allclose(densities(model, levels), mass, rtol=2e-4, atol=1e-30)
    np.testing.assert_allclose(densities(model, levels).sum(), 1.0, atol=1e-5)
    np.testing.assert_array_equal(densities(model, [0.3]), 0.0)
    gradients = slope(model, 0.5, [-3.0, 0.5, 4.0])
    assert np.all(np.isfinite(gradients))
    assert gradients[0] > 0 > gradients[2]
    np.testing.assert_allclose(gradients[1], 0.0, atol=1e-5)


def test_readings_at_a_limit_have_the_mass_beyond_it():
    model = noise.censored(-np.inf, 1.0, 0.4)
    meant = scipy.stats.norm(CLEAN, 0.4)
    inside = np.array([-0.5, 0.2, 0.9])
    np.testing.assert_allclose(densities(model, inside), meant.pdf(inside), rtol=2e-5)
    np.testing.assert_allclose(densities(model, [1.0]), meant.sf(1.0), rtol=2e-5)
    np.testing.assert_array_equal(densities(model, [1.1]), 0.0)
    assert np.all(np.isfinite([*slope(model, 1.0, [CLEAN]), *slope(model, 0.2, [CLEAN])]))


def test_a_flow_can_be_the_noise():
    flow, params = matrix_flow((2,), seed=0)
    model = noise.of_flow(flow, params)
    b, clean = jnp.array([0.3, -0.4]), jnp.array([0.1, 0.2])
    meant = scipy.stats.multivariate_normal(*gaussian_of(flow, params)).logpdf(np.asarray(b - clean))
    np.testing.assert_allclose(model.log_prob(b, clean), meant, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "b", "clean", "residual"),
    [
        (noise.none(), 1.0, 0.75, 0.25),
        (noise.gaussian(2.0), 1.0, 0.75, 0.25),
        (noise.laplace(2.0), 1.0, 0.75, 0.25),
        (noise.poisson(4.0), 3.0, 0.5, 0.25),
        (noise.quantised(0.5, 0.1), 1.0, 0.8, 0.0),
        (noise.quantised(0.5, 0.1), 1.0, 0.5, 0.25),
        (noise.censored(0.0, 1.0, 0.1), 1.0, 3.0, 0.0),
        (noise.censored(0.0, 1.0, 0.1), 1.0, 0.75, 0.25),
        (noise.censored(0.0, 1.0, 0.1), 0.5, 3.0, -0.5),
    ],
)
def test_residuals_are_zero_where_the_reading_agrees(model, b, clean, residual):
    np.testing.assert_allclose(model.residual(jnp.array([b]), jnp.array([clean])), [residual], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noise.gaussian(0.0), "expected sigma > 0, one number or one a measurement; got 0.0"),
        (lambda: noise.gaussian([0.1, -0.1]), "expected sigma > 0"),
        (lambda: noise.gaussian(np.nan), "expected sigma > 0"),
        (lambda: noise.gaussian(np.ones((2, 2))), "expected sigma > 0, one number or one a measurement"),
        (lambda: noise.laplace(-1.0), "expected scale > 0"),
        (lambda: noise.poisson(0.0), "expected gain > 0"),
        (lambda: noise.quantised(0.0, 0.1), "expected step > 0"),
        (lambda: noise.censored(1.0, 1.0, 0.1), "expected lower < upper; got 1.0 and 1.0"),
    ],
)
def test_widths_that_are_not_positive_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
