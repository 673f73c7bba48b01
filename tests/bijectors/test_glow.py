"""The parts of Glow: 1x1 convolutions and factoring out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import flows
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.conv1x1 import conv1x1
from jaxflows.bijectors.factor_out import factor_out
from jaxflows.bijectors.squeeze import squeeze


def _matrix(params, channels):
    return np.asarray(jax.jit(jax.vmap(lambda row: conv1x1().transform(params, row)))(jnp.eye(channels))).T


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_1x1_convolution_starts_as_a_random_rotation(channels):
    first, second = (_matrix(conv1x1().init(jax.random.key(seed), (2, 2, channels)), channels) for seed in (0, 1))
    np.testing.assert_allclose(first @ first.T, np.eye(channels), atol=1e-5)
    assert channels == 1 or np.max(np.abs(first - second)) > 0.1


def test_it_is_the_same_matrix_at_every_pixel_and_its_log_det_counts_pixels():
    params = conv1x1().init(jax.random.key(0), (3, 2, 4))
    params["factors"] = params["factors"] + 0.3
    u = jax.random.normal(jax.random.key(1), (3, 2, 4))
    v, log_det = conv1x1().forward(params, u)
    matrix = _matrix(params, 4)
    np.testing.assert_allclose(v, u @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(log_det, 6 * np.linalg.slogdet(matrix)[1], rtol=1e-4)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_diagonal_that_would_overflow_is_bounded_and_the_map_inverts(sign):
    layer = conv1x1(bound=2.0)
    params = {"factors": sign * 1e4 * jnp.eye(3), "order": jnp.asarray([2.0, 0.0, 1.0])}
    u = jnp.asarray([[1.0, -2.0, 3.0]])
    v, log_det = layer.forward(params, u)
    # argsort of the order is (1, 2, 0): where each output channel comes from
    np.testing.assert_allclose(v, np.exp(2.0 * sign) * u[:, jnp.asarray([1, 2, 0])], rtol=1e-6)
    np.testing.assert_allclose(log_det, 6.0 * sign, rtol=1e-6)
    np.testing.assert_allclose(layer.invert(params, v)[0], u, rtol=1e-6)


def test_the_permutation_has_no_gradient_and_survives_rounding_and_shrinking():
    params = conv1x1().init(jax.random.key(3), (6,))
    u = jnp.arange(1.0, 7.0)
    gradient = jax.grad(lambda p: jnp.sum(conv1x1().transform(p, u) ** 3))(params)
    np.testing.assert_array_equal(gradient["order"], 0.0)
    assert np.max(np.abs(gradient["factors"])) > 0
    shrunk = params | {"order": (0.013 * params["order"]).astype(jnp.float16).astype(jnp.float32)}
    np.testing.assert_array_equal(conv1x1().transform(shrunk, u), conv1x1().transform(params, u))


def test_factoring_out_passes_the_last_channels_and_puts_what_was_squeezed_back_in_place():
    # with an inner layer that only moves entries, nothing at all happens
    u = jax.random.normal(jax.random.key(0), (4, 2, 3))
    np.testing.assert_array_equal(factor_out(squeeze(), channels=2).transform({}, u), u)
    layer = factor_out(chain(squeeze(), actnorm(over="element")), channels=1)
    params = layer.init(jax.random.key(0), (4, 2, 3))
    params[1]["shift"] = params[1]["shift"].at[1, 0, 3].set(5.0)
    moved = np.asarray(layer.transform(params, u) - u)
    # squeezed pixel (1, 0), sub-pixel 3: row 3, column 1
    assert np.argwhere(moved).tolist() == [[3, 1, 0]]


def test_factoring_out_starts_its_inner_layers_on_the_part_they_see():
    layer = factor_out(actnorm(over="channel"), channels=2)
    batch = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (50, 2, 2, 3))
    params = layer.fit_to_data(layer.init(jax.random.key(0), (2, 2, 3)), batch)
    out = jax.vmap(lambda u: layer.transform(params, u))(batch)
    np.testing.assert_allclose(jnp.mean(out[..., :2], axis=(0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_array_equal(out[..., 2], batch[..., 2])


def _paper_base(name):
    sizes = flows.PAPER_SIZES[name]
    return flows.realnvp_image(event_shape=sizes.image_shape, **sizes.base)


def _paper_pregenerator(name):
    flow = flows.realnvp_latent(latent_shape=_paper_base(name).latent_shape, **flows.PAPER_SIZES[name].pregenerator)
    assert flow.event_shape == _paper_base(name).latent_shape
    return flow


@pytest.mark.parametrize(
    ("make", "shape", "blocks"),
    [
        (lambda: flows.glow(event_shape=(8, 8, 3), scales=2, steps=3, hidden=4, blocks=1), (4, 4, 12), 6),
        (lambda: flows.glow(event_shape=(2, 2, 1), scales=1, steps=2, hidden=4, blocks=1), (1, 1, 4), 2),
        (lambda: flows.realnvp_image(event_shape=(28, 28, 1)), (14, 14, 4), 20),
        (lambda: _paper_base("cifar10"), (16, 16, 12), 44),
        (lambda: _paper_pregenerator("mnist"), (14, 14, 4), 20),
        (lambda: _paper_pregenerator("cifar10"), (16, 16, 12), 28),
        (lambda: _paper_pregenerator("celeba"), (32, 32, 12), 20),
        (lambda: flows.realnvp_image(event_shape=(3, 5, 2), scales=1, layers=2, hidden=4, blocks=1), (3, 5, 2), 2),
    ],
)
def test_image_flows_have_the_stated_latent_and_cost(make, shape, blocks):
    flow = make()
    assert flow.latent_shape == shape
    assert flow.bijector.blocks == blocks
    assert flow.bijector.sweep_blocks == 2 * blocks
    assert jax.eval_shape(flow.init, jax.random.key(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv1x1(bound=0.0), "bound > 0; got 0.0"),
        (lambda: conv1x1().output_shape(()), "channels last; got shape \\(\\)"),
        (lambda: factor_out(actnorm(), channels=0), "channels >= 1; got 0"),
        (lambda: factor_out(actnorm(), channels=1).output_shape((4, 4, 1)), "more than 1 channels.*got \\(4, 4, 1\\)"),
        (lambda: factor_out(squeeze(), channels=1).output_shape((3, 4, 2)), "divisible by 2; got \\(3, 4, 1\\)"),
        (lambda: flows.glow(event_shape=(6, 6, 1), scales=2, steps=1), "divisible by 2; got \\(3, 3, 2\\)"),
        (lambda: flows.glow(event_shape=(4, 4, 1), scales=0), "scales >= 1; got 0"),
        (lambda: flows.glow(event_shape=(16,)), "\\(height, width, channels\\).*got \\(16,\\)"),
        (lambda: flows.realnvp_image(event_shape=(7, 7, 1), scales=2), "divisible by 2; got \\(7, 7, 1\\)"),
        (lambda: flows.realnvp_image(event_shape=(8, 8, 1), scales=0), "scales >= 1; got 0"),
        (lambda: flows.realnvp_latent(latent_shape=(4, 4, 3)), "channels divisible by 4; got \\(4, 4, 3\\)"),
    ],
)
def test_bad_options_and_shapes_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
