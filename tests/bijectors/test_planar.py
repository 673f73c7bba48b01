"""Planar layers at the edge of invertibility and in both branches of tanh."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.planar import bounding_factor, planar
from tests.bijectors.extremes import RAW, all_of, check_extreme

LAYER = planar()


def _params(dtype, bias=0.0, u_raw=(0.5, -2.0, 1.0), w=(1.0, 1.5, -0.5)):
    return {name: jnp.asarray(value, dtype) for name, value in (("w", w), ("u_raw", u_raw), ("bias", bias))}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", sorted(RAW))
def test_no_raw_parameter_breaks_it(kind, dtype):
    check_extreme(LAYER, (3,), kind, dtype)


@pytest.mark.parametrize("margin", [1e-3, 0.5])
def test_the_product_stays_above_minus_one_and_reaches_everything_else(margin):
    x = jnp.concatenate([-jnp.logspace(8, -8, 500), jnp.zeros(1), jnp.logspace(-8, 8, 500)])
    product = np.asarray(x * bounding_factor(x, margin), np.float64)
    assert np.all(product >= -(1 - margin) * (1 + 1e-6))
    assert product[0] < -(1 - margin) * (1 - 1e-6)
    assert product[-1] > 1e7 * (1 - margin)
    # it increases, but for rounding
    assert np.all(np.diff(product) >= -3e-7 * np.abs(product[1:]))


# flowjax #169: the first log-determinant was wrong in the negative branch, which no test reached
@pytest.mark.parametrize("bias", [-100.0, -0.5, 0.5, 100.0])
def test_the_log_det_and_the_inverse_hold_in_every_branch(bias):
    with jax.enable_x64(True):
        params, u = _params("float64", bias), jnp.asarray([0.3, -0.8, 1.1])
        (_, log_det), jacobian, (back, info) = all_of(LAYER, params, u)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-12, atol=1e-14)
        assert (abs(float(log_det)) > 0.05) == (abs(bias) < 1)
        assert bool(info.converged)
        np.testing.assert_allclose(back, u, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_steepest_contraction_allowed_is_inverted(dtype):
    # w.u_hat = -0.999 (1 - 1/400): the derivative along w at the bend is 3.5e-3
    with jax.enable_x64(dtype == "float64"):
        params = _params(dtype, 0.0, u_raw=(-20.0, 0.0), w=(20.0, 0.0))
        u = jnp.asarray(np.stack([np.linspace(-0.2, 0.2, 101), np.zeros(101)], axis=1), dtype)
        (_, log_det), _, (back, info) = jax.vmap(functools.partial(all_of, LAYER, params))(u)
        assert float(jnp.min(log_det)) < np.log(4e-3)
        assert np.all(info.converged)
        # the inverse's derivative multiplies the rounding of v
        np.testing.assert_allclose(back, u, rtol=0, atol=4e3 * jnp.finfo(dtype).eps)


def test_a_layer_of_zero_weights_is_a_translation_with_gradients_in_both():
    params = _params("float32", 0.7, w=(0.0, 0.0, 0.0))
    u = jnp.asarray([1.0, 2.0, 3.0])
    v, log_det = LAYER.forward(params, u)
    np.testing.assert_allclose(v - u, params["u_raw"] * 0.999 / (1 + np.log(2)) * np.tanh(0.7), rtol=1e-5)
    assert float(log_det) == 0.0
    gradient = jax.jit(jax.grad(lambda p: LAYER.inverse(p, v)[1]))(params)
    assert np.all(np.isfinite(gradient["w"]))
    assert np.any(np.asarray(gradient["w"]) != 0)


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_margin_out_of_range_is_refused(margin):
    with pytest.raises(ValueError, match=f"expected 0 < margin < 1; got {margin}"):
        planar(margin=margin)
