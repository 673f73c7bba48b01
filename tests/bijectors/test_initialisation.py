"""Data-dependent initialisation, dequantisation, the logit's edges, and the words of every shape error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.cosine import cosine_affine
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.logit import dequantise, logit
from jaxflows.bijectors.residual import residual_dense
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.bijectors.triangular import triangular_affine
from jaxflows.cosines import cosine_matrix

AXES = {"element": (0,), "channel": (0, 1, 2), "event": (0, 1, 2, 3)}


def _batch():
    rng = np.random.default_rng(0)
    return jnp.asarray(5.0 + rng.standard_normal((64, 2, 3, 4)) * np.asarray([0.1, 1.0, 3.0, 20.0]), jnp.float32)


@pytest.mark.parametrize("over", sorted(AXES))
def test_the_first_batch_leaves_actnorm_with_mean_zero_and_variance_one(over):
    layer, batch = actnorm(over=over), _batch()
    params = layer.fit_to_data(layer.init(jax.random.key(0), (2, 3, 4)), batch)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, layer.init(jax.random.key(0), (2, 3, 4)))
    out = jax.vmap(lambda u: layer.transform(params, u))(batch)
    np.testing.assert_allclose(jnp.mean(out, axis=AXES[over]), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.var(out, axis=AXES[over]), 1.0, rtol=1e-4)


def test_constant_columns_pass_through_unscaled_and_small_ones_are_floored():
    rng = np.random.default_rng(1)
    columns = [np.full(50, 3.0), rng.standard_normal(50), 1e-6 * rng.standard_normal(50)]
    batch = jnp.asarray(np.stack(columns, axis=1), jnp.float32)
    layer = actnorm(over="element")
    params = layer.fit_to_data(layer.init(jax.random.key(0), (3,)), batch)
    assert float(params["log_scale"][0]) == 0.0
    assert float(params["shift"][0]) == 3.0
    assert float(params["log_scale"][2]) <= np.log(1e3) + 0.5
    assert np.all(np.isfinite(jax.vmap(lambda u: layer.transform(params, u))(batch)))


def test_one_row_and_small_data_start_finite():
    layer = actnorm(over="element")
    params = layer.fit_to_data({}, jnp.asarray([[1.0, 2.0]]))
    np.testing.assert_array_equal(layer.transform(params, jnp.asarray([1.0, 2.0])), 0.0)
    # data far below the floor: the floor is relative to the batch, so the start still has variance one
    tiny = 1e-5 * jax.random.normal(jax.random.key(0), (500, 2))
    params = layer.fit_to_data({}, tiny)
    np.testing.assert_allclose(jnp.var((tiny - params["shift"]) * jnp.exp(params["log_scale"]), axis=0), 1.0, rtol=1e-3)


def test_compositions_start_each_layer_on_what_reaches_it():
    layer = chain(actnorm(over="element"), scan_chain(chain(actnorm(over="element"), invert(actnorm())), 2))
    batch = _batch()[:, 0, 0]
    params = layer.fit_to_data(layer.init(jax.random.key(0), (4,)), batch)
    out = jax.vmap(lambda u: layer.transform(params, u))(batch)
    np.testing.assert_allclose(jnp.mean(out, axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.var(out, axis=0), 1.0, rtol=1e-4)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="expected at least one row to start from; got a batch of shape \\(0, 2\\)"):
        actnorm().fit_to_data({}, jnp.zeros((0, 2)))


def test_the_logit_is_finite_at_the_edges_with_a_margin_and_infinite_without():
    edges = jnp.asarray([0.0, 1.0])
    v, log_det = logit(margin=0.05).forward({}, edges)
    np.testing.assert_allclose(v, [np.log(0.05 / 0.95), np.log(0.95 / 0.05)], rtol=1e-5)
    np.testing.assert_allclose(log_det, 2 * np.log(0.9 / (0.05 * 0.95)), rtol=1e-5)
    np.testing.assert_allclose(logit(margin=0.05).invert({}, v)[0], edges, atol=1e-6)
    np.testing.assert_array_equal(logit(margin=0.0).transform({}, edges), [-np.inf, np.inf])


@pytest.mark.parametrize("levels", [2, 256])
def test_dequantised_levels_stay_in_their_own_cell(levels):
    top = jnp.full(200_000, levels - 1, jnp.int32)
    noisy = dequantise(jax.random.key(0), top, num_levels=levels)
    assert float(jnp.min(noisy)) >= (levels - 1) / levels
    # float32 rounds 255 + 0.9999999 up to 256: one draw in 130,000 would leave the interval
    assert float(jnp.max(noisy)) < 1.0
    cell = (noisy * levels - (levels - 1)).astype(float)
    assert abs(float(jnp.mean(cell)) - 0.5) < 5 * np.sqrt(1 / 12 / top.size)


def test_floating_levels_are_refused():
    with pytest.raises(ValueError, match="expected integer levels; got dtype float32"):
        dequantise(jax.random.key(0), jnp.zeros(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: squeeze(factor=1), "factor of at least 2; got 1"),
        (lambda: squeeze().output_shape((3, 4, 1)), "sides divisible by 2; got \\(3, 4, 1\\)"),
        (lambda: squeeze().output_shape((4, 4)), "\\(height, width, channels\\).*got \\(4, 4\\)"),
        (lambda: squeeze().init(jax.random.key(0), (5, 5, 1)), "got \\(5, 5, 1\\)"),
        (lambda: chain(squeeze(), squeeze()).output_shape((6, 6, 1)), "divisible by 2; got \\(3, 3, 4\\)"),
        (lambda: chain(), "expected at least one layer; got none"),
        (lambda: scan_chain(actnorm(), 0), "expected depth >= 1; got 0"),
        (lambda: scan_chain(squeeze(), 2), "keeps entries in place; got one that moves them"),
        (lambda: invert(squeeze()).output_shape((4, 4, 1)), "keeps the event's shape \\(4, 4, 1\\); got \\(2, 2, 4\\)"),
        (lambda: actnorm(over="batch"), "expected over to be one of .*; got 'batch'"),
        (lambda: logit(margin=0.5), "expected 0 <= margin < 0.5; got 0.5"),
    ],
)
def test_bad_options_and_shapes_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_equal_options_give_the_identical_layer_and_double_inversion_is_the_layer():
    block = residual_dense(hidden=(4,))
    assert residual_dense(hidden=(4,)) is block
    assert invert(invert(block)) is block
    assert chain(block, block) is chain(block, block)
    assert scan_chain(block, 2) is scan_chain(block, 2)


def _textures(count, key=0):
    """Images (count, 6, 4, 3) whose law is the same at every place: white noise blurred across edges, channels mixed."""
    white = np.random.default_rng(key).standard_normal((count, 6, 4, 3))
    gain = 1.0 / (1.0 + np.add.outer(np.arange(6), np.arange(4)))
    waves = white * gain[..., None] @ np.asarray([[1.0, 0.5, 0.2], [0.0, 1.0, 0.7], [0.0, 0.0, 0.3]])
    down, across = cosine_matrix(6), cosine_matrix(4)
    return jnp.asarray(2.0 + np.einsum("ba,dc,nbde->nace", down, across, waves), jnp.float32)


def test_the_first_batch_leaves_cosine_affine_white():
    layer, batch = cosine_affine(), _textures(4000)
    params = layer.fit_to_data(layer.init(jax.random.key(0), batch.shape[1:]), batch)
    out = np.asarray(jax.vmap(lambda u: layer.transform(params, u))(batch)).reshape(len(batch), -1)
    covariance = np.cov(out, rowvar=False)
    np.testing.assert_allclose(out.mean(axis=0), 0.0, atol=1e-4)
    # between frequencies there is no correlation but the chance one of so many rows: four of its standard deviations
    np.testing.assert_allclose(covariance, np.eye(covariance.shape[0]), atol=4.5 / np.sqrt(len(batch)))
    # within a frequency it is the batch's own, and gone
    waves = np.einsum("ab,cd,nbde->nace", cosine_matrix(6), cosine_matrix(4), out.reshape(batch.shape))
    one = np.cov(waves[:, 2, 1], rowvar=False)
    np.testing.assert_allclose(one, np.eye(3), atol=2e-3)


def test_cosine_affine_is_the_matrix_that_its_parameters_say():
    layer = cosine_affine()
    rng = np.random.default_rng(3)
    params = {"shift": rng.standard_normal((3, 2, 2)), "factor": rng.standard_normal((3, 2, 2, 2))}
    waves = np.kron(np.kron(cosine_matrix(3), cosine_matrix(2)), np.eye(2))
    triangles = np.zeros((12, 12))
    for place in range(6):
        factor = params["factor"].reshape(6, 2, 2)[place]
        triangles[2 * place : 2 * place + 2, 2 * place : 2 * place + 2] = np.tril(factor, -1) + np.diag(np.exp(np.diag(factor)))
    u = rng.standard_normal((3, 2, 2))
    expected = waves.T @ triangles @ waves @ (u - params["shift"]).reshape(-1)
    got = layer.transform(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params), jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(np.asarray(got).reshape(-1), expected, rtol=1e-5, atol=1e-5)


def test_cosine_affine_starts_finite_on_one_row_on_constant_channels_and_on_tiny_data():
    layer = cosine_affine()
    image = jnp.ones((4, 4, 2))
    params = layer.fit_to_data({}, image[None])
    np.testing.assert_array_equal(layer.transform(params, image), 0.0)
    np.testing.assert_allclose(params["factor"], 0.0, atol=1e-6)
    constant = _textures(64).at[..., 1].set(0.5)
    params = layer.fit_to_data({}, constant)
    assert float(jnp.max(params["factor"])) <= np.log(1e3 / 0.1)
    assert np.all(np.isfinite(jax.vmap(lambda u: layer.transform(params, u))(constant)))
    tiny = 1e-5 * _textures(500)
    params = layer.fit_to_data({}, tiny)
    np.testing.assert_allclose(jnp.var(jax.vmap(lambda u: layer.transform(params, u))(tiny)), 1.0, rtol=1e-2)
    with pytest.raises(ValueError, match="at least one row"):
        layer.fit_to_data({}, tiny[:0])
    with pytest.raises(ValueError, match="height, width, channels"):
        layer.init(jax.random.key(0), (4, 4))
    with pytest.raises(ValueError, match="scale_floor > 0"):
        cosine_affine(scale_floor=0.0)


def test_triangular_affine_is_the_matrix_of_its_parameters_and_starts_with_its_diagonal_alone():
    layer = triangular_affine()
    rng = np.random.default_rng(3)
    shift, factor = rng.standard_normal((2, 3)), rng.standard_normal((6, 6))
    triangle = np.tril(factor, -1) + np.diag(np.exp(np.diag(factor)))
    u = rng.standard_normal((2, 3))
    params = {"shift": jnp.asarray(shift, jnp.float32), "factor": jnp.asarray(factor, jnp.float32)}
    got = layer.transform(params, jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(np.asarray(got).reshape(-1), triangle @ (u - shift).reshape(-1), rtol=1e-5, atol=1e-5)
    rows = jnp.asarray(rng.standard_normal((50, 2, 3)) * [[1.0, 2.0, 0.0], [0.1, 5.0, 1.0]] + 3.0, jnp.float32)
    params = layer.fit_to_data(layer.init(jax.random.key(0), (2, 3)), rows)
    out = jax.vmap(lambda v: layer.transform(params, v))(rows)
    np.testing.assert_allclose(jnp.mean(out, axis=0), 0.0, atol=1e-4)
    # of a constant entry nothing is known
    np.testing.assert_allclose(jnp.std(out, axis=0), [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], atol=1e-4)
    np.testing.assert_array_equal(params["factor"], np.diag(np.diag(params["factor"])))
    with pytest.raises(ValueError, match="at least one row"):
        layer.fit_to_data({}, rows[:0])
    with pytest.raises(ValueError, match="scale_floor > 0"):
        triangular_affine(scale_floor=0.0)
