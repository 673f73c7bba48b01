"""Couplings: the identity at the start, exactly half changed, bounded log-scales, and the words of every refusal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.coupling import (
    additive_coupling,
    affine_coupling,
    alternating,
    conditional_coupling,
    context_size,
    given,
)

SPLITS = [
    ("dense", "half", (5,)),
    ("dense", "checkerboard", (5,)),
    ("conv", "half", (3, 2, 3)),
    ("conv", "checkerboard", (3, 3, 2)),
]


def _filled(layer, shape, scale=0.5):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: layer.init(key, shape), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("make", [affine_coupling, additive_coupling])
@pytest.mark.parametrize(("network", "split", "shape"), SPLITS)
def test_a_coupling_starts_at_the_identity(make, network, split, shape):
    layer = make(hidden=3, blocks=1, network=network, split=split)
    u = jax.random.normal(jax.random.key(0), shape)
    v, log_det = jax.jit(layer.forward)(layer.init(jax.random.key(1), shape), u)
    np.testing.assert_array_equal(v, u)
    assert float(log_det) == 0.0


@pytest.mark.parametrize(("network", "split", "shape"), SPLITS)
def test_each_entry_is_changed_by_exactly_one_parity(network, split, shape):
    u = jax.random.normal(jax.random.key(0), shape)
    changed = []
    for parity in (0, 1):
        layer = affine_coupling(hidden=3, blocks=1, network=network, split=split, parity=parity)
        changed.append(np.asarray(layer.transform(_filled(layer, shape), u)) != np.asarray(u))
    np.testing.assert_array_equal(changed[0], ~changed[1])
    assert abs(int(changed[0].sum()) - int(changed[1].sum())) <= max(2, u.size // 3)


def test_the_checkerboard_and_the_half_lie_where_they_should():
    def where(network, split, shape):
        layer = additive_coupling(hidden=3, blocks=1, network=network, split=split)
        return np.asarray(layer.transform(_filled(layer, shape), jnp.zeros(shape))) != 0

    np.testing.assert_array_equal(where("dense", "half", (5,)), [False, False, True, True, True])
    np.testing.assert_array_equal(where("dense", "checkerboard", (4,)), [False, True, False, True])
    np.testing.assert_array_equal(where("conv", "half", (1, 1, 3))[0, 0], [False, True, True])
    np.testing.assert_array_equal(where("conv", "checkerboard", (2, 3, 1))[..., 0], [[0, 1, 0], [1, 0, 1]])


def test_a_context_is_put_into_every_copy_of_a_layer_and_changes_its_map():
    layer = alternating(lambda parity: conditional_coupling(context=2, hidden=3, blocks=1, parity=parity), 4)
    fresh = layer.init(jax.random.key(0), (5,))
    assert context_size(fresh) == 2
    assert context_size(affine_coupling(hidden=3).init(jax.random.key(0), (5,))) is None
    params = given(_filled(layer, (5,)), jnp.array([1.0, -2.0]))
    for half in params:
        np.testing.assert_array_equal(half["context"], [[1.0, -2.0]] * 2)
    u = jax.random.normal(jax.random.key(0), (5,))
    v = layer.transform(params, u)
    assert np.all(v != layer.transform(given(params, jnp.zeros(2)), u))
    np.testing.assert_allclose(layer.invert(params, v)[0], u, atol=1e-5)
    np.testing.assert_array_equal(layer.transform(given(fresh, jnp.ones(2)), u), u)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_log_scale_that_would_overflow_is_bounded_and_the_map_inverts(sign):
    layer = affine_coupling(hidden=3, blocks=1, bound=2.0)
    params = layer.init(jax.random.key(0), (4,))
    # numbers come in pairs (shift, raw log-scale)
    params["last"]["bias"] = jnp.asarray([1.0, sign * 1e4] * 2)
    u = jnp.asarray([1.0, -2.0, 3.0, -4.0])
    v, log_det = layer.forward(params, u)
    np.testing.assert_allclose(v[2:], u[2:] * np.exp(2.0 * sign) + 1.0, rtol=1e-6)
    np.testing.assert_allclose(log_det, 4.0 * sign, rtol=1e-6)
    np.testing.assert_allclose(layer.invert(params, v)[0], u, rtol=1e-5)
    gradient = jax.grad(lambda p: jnp.sum(layer.forward(p, u)[0]) + layer.forward(p, u)[1])(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_a_pass_counts_one_evaluation_of_the_network():
    layer = alternating(lambda parity: additive_coupling(hidden=3, blocks=1, parity=parity), 4)
    assert (layer.blocks, layer.sweep_blocks) == (4, 8)
    _, info = layer.invert(layer.init(jax.random.key(0), (4,)), jnp.ones(4))
    assert int(info.evaluations) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: affine_coupling(hidden=0), "hidden >= 1 and blocks >= 1; got 0 and 2"),
        (lambda: additive_coupling(hidden=3, blocks=0), "hidden >= 1 and blocks >= 1; got 3 and 0"),
        (lambda: affine_coupling(hidden=3, network="mlp"), "'dense' or 'conv'; got 'mlp'"),
        (lambda: affine_coupling(hidden=3, split="stripes"), "'half' or 'checkerboard'; got 'stripes'"),
        (lambda: affine_coupling(hidden=3, parity=2), "parity 0 or 1; got 2"),
        (lambda: affine_coupling(hidden=3, bound=0.0), "bound > 0; got 0.0"),
        (lambda: conditional_coupling(context=0, hidden=3), "context >= 1; got 0"),
        (lambda: affine_coupling(hidden=3).output_shape((1,)), "two entries to split; got shape \\(1,\\)"),
        (lambda: affine_coupling(hidden=3, network="conv").output_shape((4,)), "an image .*; got \\(4,\\)"),
        (lambda: affine_coupling(hidden=3, network="conv").output_shape((4, 4, 1)), "two channels to split; got \\(4, 4, 1\\)"),
        (
            lambda: affine_coupling(hidden=3, network="conv", split="checkerboard").output_shape((1, 1, 5)),
            "two pixels to split; got \\(1, 1, 5\\)",
        ),
        (lambda: alternating(lambda parity: additive_coupling(hidden=3), 3), "even number of layers, at least 2; got 3"),
    ],
)
def test_bad_options_and_shapes_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
