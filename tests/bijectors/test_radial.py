"""Radial layers at their centre, in many dimensions and at the edge of invertibility."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.radial import radial
from tests.bijectors.extremes import RAW, all_of, check_extreme

LAYER = radial()


def _params(dtype, size, alpha_raw=0.3, beta_raw=-2.0):
    centre = np.linspace(-1.0, 1.0, size)
    pairs = (("centre", centre), ("alpha_raw", alpha_raw), ("beta_raw", beta_raw))
    return {name: jnp.asarray(value, dtype) for name, value in pairs}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", sorted(RAW))
def test_no_raw_parameter_breaks_it(kind, dtype):
    check_extreme(LAYER, (3,), kind, dtype)


# torchflows test_radial_numerical_stability.py
@pytest.mark.parametrize("beta_raw", [-1e3, -0.5, 0.5, 1e3])
def test_a_thousand_dimensions_uniform_from_minus_ten_to_ten_are_finite(beta_raw):
    u = jax.random.uniform(jax.random.key(0), (8, 1000), minval=-10.0, maxval=10.0)
    params = LAYER.init(jax.random.key(1), (1000,)) | {"beta_raw": jnp.float32(beta_raw)}
    v, log_det = jax.jit(jax.vmap(LAYER.forward, in_axes=(None, 0)))(params, u)
    back, info = jax.jit(jax.vmap(LAYER.invert, in_axes=(None, 0)))(params, v)
    assert np.all(np.isfinite(v))
    assert np.all(np.isfinite(log_det))
    # forty units in the last place of the largest entries
    np.testing.assert_allclose(back, u, rtol=0, atol=5e-5)
    np.testing.assert_array_equal(info.converged, info.residual <= 1e-5)
    if abs(beta_raw) < 1:
        assert np.all(info.converged)


# torchflows residual/radial.py: elementwise absolute values in place of the norm, its log-determinant off by 1.8
@pytest.mark.parametrize("beta_raw", [-3.0, 3.0])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 1.0, 100.0])
def test_the_log_det_is_that_of_the_jacobian_at_any_distance(beta_raw, distance):
    with jax.enable_x64(True):
        params = _params("float64", 4, beta_raw=beta_raw)
        u = params["centre"] + distance * jnp.asarray([0.5, -0.5, 0.1, 0.7])
        (_, log_det), jacobian, (back, _) = all_of(LAYER, params, u)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-10)
        assert (float(log_det) < 0) == (beta_raw < 0)
        np.testing.assert_allclose(back, u, rtol=1e-12, atol=1e-12)


def test_values_and_gradients_are_finite_at_the_centre():
    params = _params("float32", 3)

    def total(run, params, u):
        value, log_det = run(params, u)
        return jnp.sum(value) + log_det

    for run in (LAYER.forward, LAYER.inverse):
        derivative = jax.jit(jax.value_and_grad(functools.partial(total, run), argnums=(0, 1)))
        value, gradients = derivative(params, params["centre"])
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, gradients)))
        assert np.all(np.asarray(gradients[1]) > 0)
    np.testing.assert_array_equal(LAYER.transform(params, params["centre"]), params["centre"])
