"""Rational-quadratic splines: both sides of every branch, and what float32 keeps of a round trip."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.spline import elementwise_spline, spline_coupling

BOUND = 2.0
BINS = 4
SIZE = 101
# a vector of two halves: only the second is mapped, by numbers that are the last layer's bias
LAYER = spline_coupling(hidden=2, blocks=1, bins=BINS, bound=BOUND)


def _params(numbers, dtype=jnp.float32):
    """Parameters whose spline is that of ``numbers`` (size, 3 bins - 1) whatever the first half is."""
    size = len(numbers)
    params = LAYER.init(jax.random.key(0), (2 * size,))
    params["last"]["bias"] = jnp.asarray(numbers.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _mapped(params, u, way):
    """Images, slopes by differentiating the map itself, and the stated log-determinant, as numpy arrays."""
    return jax.tree.map(np.asarray, _program(params, u, way))


@functools.partial(jax.jit, static_argnums=2)
def _program(params, u, way):
    t = jnp.concatenate([jnp.zeros_like(u), u])
    run = getattr(LAYER, way)
    v, log_det = run(params, t)
    half = u.size
    # entry by entry: the Jacobian is diagonal, so one product with ones gives its diagonal
    _, slope = jax.jvp(lambda s: run(params, s)[0], (t,), (jnp.concatenate([jnp.zeros_like(u), jnp.ones_like(u)]),))
    return v[half:], slope[half:], log_det


def _random_numbers(scale, seed=0):
    return np.tile(scale * np.random.default_rng(seed).standard_normal((1, 3 * BINS - 1)), (SIZE, 1))


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 1e4])
def test_the_spline_rises_is_onto_and_is_the_identity_outside(scale):
    u = np.linspace(-1.5 * BOUND, 1.5 * BOUND, SIZE)
    with jax.enable_x64(True):
        v, slope, log_det = _mapped(_params(_random_numbers(scale), jnp.float64), u, "forward")
    outside = np.abs(u) >= BOUND
    np.testing.assert_array_equal(v[outside], u[outside])
    np.testing.assert_array_equal(slope[outside], 1.0)
    assert np.all(np.diff(v) > 0)
    assert np.max(np.abs(v[~outside])) < BOUND
    np.testing.assert_allclose(log_det, np.sum(np.log(slope)), rtol=1e-9, atol=1e-9)
    if scale == 0.0:
        np.testing.assert_allclose(v, u, atol=1e-12)
    else:
        assert np.max(np.abs(v - u)) > 0.1


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e4])
def test_float32_keeps_the_round_trip_to_the_slope_times_rounding(scale):
    u = np.linspace(-1.2 * BOUND, 1.2 * BOUND, SIZE, dtype=np.float32)
    for seed in range(5):
        params = _params(_random_numbers(scale, seed))
        v, slope, log_det = _mapped(params, u, "forward")
        back, inverse_slope, inverse_log_det = _mapped(params, v, "inverse")
        # rounding of v moves u by at most 1 / S' times as much
        np.testing.assert_array_less(np.abs(back - u), 1e-5 + 8 * np.spacing(np.float32(BOUND)) * np.maximum(1, 1 / slope))
        assert abs(float(inverse_log_det + log_det)) < 1e-2 * SIZE
        assert np.all(np.isfinite(inverse_slope))


def test_values_and_gradients_are_finite_at_knots_and_edges_and_the_derivative_is_continuous_there():
    with jax.enable_x64(True):
        # equal bins: knots at -2, -1, 0, 1, 2, all heights and derivatives their own
        numbers = _random_numbers(1.0)
        numbers[:, :BINS] = 0.0
        params = _params(numbers, jnp.float64)
        knots = np.repeat([-BOUND, -1.0, 0.0, 1.0, BOUND], 3) + np.tile([-1e-9, 0.0, 1e-9], 5)
        u = np.concatenate([knots, np.zeros(SIZE - knots.size)])
        v, slope, _ = _mapped(params, u, "forward")
        v, slope = v[:15].reshape(5, 3), slope[:15].reshape(5, 3)
        np.testing.assert_allclose(v - v[:, 1:2], 0.0, atol=1e-6)
        np.testing.assert_allclose(slope, np.broadcast_to(slope[:, 1:2], (5, 3)), rtol=1e-6)
        np.testing.assert_allclose(slope[[0, -1]], 1.0, rtol=1e-6)
        inner = np.exp(-np.log(1e-2) * np.tanh(numbers[0, 2 * BINS :] / -np.log(1e-2)))
        np.testing.assert_allclose(slope[1:4, 1], inner, rtol=1e-9)
        for way in ("forward", "inverse"):
            t = jnp.concatenate([jnp.zeros_like(u), u])
            total = lambda p, s, way=way: jnp.sum(getattr(LAYER, way)(p, s)[0]) + getattr(LAYER, way)(p, s)[1]  # noqa: E731
            gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(params, t)
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_one_bin_agrees_with_the_formula_by_hand():
    layer = spline_coupling(hidden=2, blocks=1, bins=2, bound=1.0, min_bin=0.1, min_derivative=0.1)
    params = layer.init(jax.random.key(0), (2,))
    # widths 0.5, 0.5 of [-1, 1]; heights 0.1 + 0.8 * (3/4, 1/4); middle derivative exp(log(10) tanh(1))
    params["last"]["bias"] = jnp.asarray([0.0, 0.0, np.log(3.0), 0.0, np.log(10.0)])
    middle, height = 10 ** np.tanh(1.0), 2 * 0.7
    slope, xi = height, 0.25
    meant = -1 + height * (slope * xi**2 + xi * (1 - xi)) / (slope + (middle + 1 - 2 * slope) * xi * (1 - xi))
    np.testing.assert_allclose(layer.transform(params, jnp.asarray([0.3, -0.75]))[1], meant, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins >= 2; got 1"),
        ({"bound": 0.0}, "bound > 0; got 0.0"),
        ({"bins": 4, "min_bin": 0.25}, "min_bin < 1 / bins = 0.25; got 0.25"),
        ({"min_derivative": 1.0}, "min_derivative < 1; got 1.0"),
    ],
)
def test_bad_options_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        spline_coupling(hidden=3, **options)


def test_one_spline_for_all_entries_is_as_many_alike():
    numbers = 0.2 * jax.random.normal(jax.random.key(1), (3 * BINS - 1,))
    u = jnp.linspace(-1.5, 2.5, 48).reshape(4, 4, 3)
    layers = [elementwise_spline(over=over, bins=BINS, low=-1.0, high=2.0) for over in ("event", "channel", "element")]
    found = []
    for layer in layers:
        shape = layer.init(jax.random.key(0), u.shape)["numbers"].shape
        params = {"numbers": jnp.broadcast_to(numbers, shape)}
        v, log_det = layer.forward(params, u)
        # the gradient of each one's numbers adds up to that of the one
        gradient = jax.grad(lambda p, layer=layer: layer.forward(p, u)[1])(params)["numbers"]
        back = layer.inverse(params, v)
        np.testing.assert_allclose(back[0], u, atol=1e-5)
        found.append((v, log_det, gradient.reshape(-1, 3 * BINS - 1).sum(0), back[1]))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, same, rtol=2e-5, atol=2e-5)
    # the identity outside
    outside = (u < -1.0) | (u > 2.0)
    np.testing.assert_allclose(found[0][0][outside], u[outside], rtol=1e-6)
    assert np.all(np.diff(found[0][0].reshape(-1)) > 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"over": "row"}, "over to be one of"), ({"low": 1.0, "high": 1.0}, "low < high"), ({"bins": 1}, "bins >= 2")],
)
def test_an_entrywise_spline_out_of_range_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        elementwise_spline(**options)
