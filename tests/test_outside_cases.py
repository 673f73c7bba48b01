"""Cases other projects test themselves with, numbers re-created here; the conditional ones stand with the solvers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.residual import residual_conv, residual_dense
from jaxflows.log_det.estimators import exact, power_series, russian_roulette, truncation_bound


def _contractive(bijector, shape, seed=0):
    """Numpy parameters: matrices of norm 0.95, kernels with tap norms that sum to 0.95, everything else random."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape)
        if path[-1].key == "weight":
            values *= 0.95 / np.linalg.norm(values, ord=2, axis=(-2, -1), keepdims=True)
        elif path[-1].key == "kernel":
            taps = np.linalg.norm(values, ord=2, axis=(-2, -1), keepdims=True)
            values *= 0.95 / np.sum(taps, axis=(-4, -3), keepdims=True)
        else:
            values *= 0.1
        return jnp.asarray(values)

    shapes = jax.eval_shape(lambda key: bijector.init(key, shape), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize("shape", [(20,), (3, 10, 10)])
def test_five_actnorms_and_residual_blocks_invert_to_1e6(shape):
    # FrEIA tests/test_invertible_resnet.py: inverse 1e-6; its log-det is held to 1.5 there, to 1e-9 here
    residual = residual_dense(hidden=(16,)) if len(shape) == 1 else residual_conv(channels=(4, 4))
    with jax.enable_x64(True):
        layer = scan_chain(chain(actnorm(), residual), 5)
        params = _contractive(layer, shape)
        u = jnp.asarray(np.random.default_rng(1).standard_normal(shape))

        def there_and_back(params, u):
            if len(shape) == 1:
                v, log_det = layer.forward(params, u)
                back, inverse_log_det = layer.inverse(params, v)
                return v, back, log_det + inverse_log_det
            v = layer.transform(params, u)
            back, info = layer.invert(params, v)
            return v, back, info.residual

        v, back, defect = jax.jit(there_and_back)(params, u)
        np.testing.assert_allclose(back, u, rtol=0, atol=1e-9)
        np.testing.assert_allclose(defect, 0.0, atol=1e-9 if len(shape) == 1 else 1e-11)
        assert float(jnp.max(jnp.abs(v - u))) > 0.1


@pytest.mark.parametrize("dimension", [2, 4, 5])
def test_the_grid_of_dimensions_and_estimators(dimension):
    # normflows flows/residual_test.py: dims {2, 4, 5}, geometric and exact, round trip 1e-4
    layer, estimators = residual_dense(hidden=(8,), coeff=0.95), (power_series(terms=12, probes=2), russian_roulette(probes=2))
    with jax.enable_x64(True):
        params = _contractive(layer, (dimension,), dimension)
        u = jnp.asarray(np.random.default_rng(2).standard_normal(dimension))

        def both_ways(params, u, key):
            v, exactly = layer.estimate(key, exact(), params, u)
            estimates = [layer.estimate(key, estimator, params, u) for estimator in estimators]
            return v, exactly, estimates, layer.invert(params, v)[0], layer.forward(params, u)[1]

        v, exactly, estimates, back, truth = jax.jit(both_ways)(params, u, jax.random.key(3))
    np.testing.assert_allclose(back, u, rtol=0, atol=1e-10)
    np.testing.assert_allclose(exactly.value, truth, atol=1e-12)
    for image, log_det in estimates:
        np.testing.assert_allclose(image, v, atol=1e-12)
        assert np.isfinite(log_det.std_error)
        assert np.isfinite(log_det.value)


def test_the_weak_bound_on_the_truncation_holds_for_all_terms():
    # invertible-resnet matrix_utils.py:weak_bound, on a matrix that attains it: J = -s I
    size, gain = 5, 0.9
    truth = size * np.log1p(-gain)
    for terms in range(1, 30):
        series = -size * sum(gain**k / k for k in range(1, terms + 1))
        bound = float(truncation_bound(gain, size, terms, jnp.float32))
        np.testing.assert_allclose(bound, abs(truth - series), rtol=1e-5)


def test_composites_agree_with_their_parts_to_5e6():
    # distrax bijectors/*_test.py: forward_and_log_det agrees with forward and log_det apart, to 5e-6
    block = residual_dense(hidden=(8,), activation="tanh")
    parts = [_contractive(block, (4,), seed) for seed in range(3)]
    whole = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    u = jnp.asarray(np.random.default_rng(4).standard_normal(4), jnp.float32)
    v, log_det = jax.jit(scan_chain(block, 3).forward)(whole, u)
    chained, chained_log_det = jax.jit(chain(block, block, block).forward)(tuple(parts), u)
    step, total, t = jax.jit(block.forward), 0.0, u
    for params in parts:
        t, one = step(params, t)
        total += float(one)
    for seen, seen_log_det in ((v, log_det), (chained, chained_log_det)):
        np.testing.assert_allclose(seen, t, rtol=0, atol=5e-6)
        np.testing.assert_allclose(seen_log_det, total, rtol=0, atol=5e-6)


def test_large_inputs_stay_finite_both_ways():
    # torchflows test/test_radial_numerical_stability.py draws U(-10, 10)^1000 for its radial layer; here a residual one
    layer = residual_dense(hidden=(4,))
    params = _contractive(layer, (1000,))
    u = jax.random.uniform(jax.random.key(5), (1000,), minval=-10.0, maxval=10.0)

    def both_ways(u):
        v, log_det = layer.estimate(jax.random.key(6), power_series(), params, u)
        return v, log_det.value, layer.invert(params, v)

    v, log_det, (back, info) = jax.jit(both_ways)(u)
    assert np.all(np.isfinite(v))
    assert np.isfinite(log_det)
    assert bool(info.converged)
    np.testing.assert_allclose(back, u, rtol=0, atol=1e-5)


def test_invariants_of_an_honest_bijector_on_a_grid_of_points():
    # TFP assert_bijective_and_finite: x -> y -> x, y -> x -> y, ildj = -fldj, all finite
    layer = chain(actnorm(over="element"), residual_dense(hidden=(6,)))
    with jax.enable_x64(True):
        params = _contractive(layer, (2,))
        grid = jnp.asarray(list(itertools.product((-8.0, -0.5, 0.0, 3.0), repeat=2)))

        def one(u):
            v, log_det = layer.forward(params, u)
            back, inverse_log_det = layer.inverse(params, v)
            return back, layer.transform(params, layer.invert(params, u)[0]), log_det, inverse_log_det

        back, there, log_det, inverse_log_det = jax.jit(jax.vmap(one))(grid)
    np.testing.assert_allclose(back, grid, atol=1e-10)
    np.testing.assert_allclose(there, grid, atol=1e-10)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-10)
    assert np.all(np.isfinite(log_det))
