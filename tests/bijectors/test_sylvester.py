"""Sylvester layers: exact orthogonality, the edge of invertibility, and options that do not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.registry import from_spec
from jaxflows.bijectors.sylvester import compact, sylvester
from tests.bijectors.extremes import RAW, all_of, check_extreme

LAYERS = {
    "orthogonal": sylvester(rank=2),
    "householder": sylvester(kind="householder", reflections=3),
    "triangular": sylvester(kind="triangular", reverse=True),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("raw", sorted(RAW))
@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_no_raw_parameter_breaks_it(kind, raw, dtype):
    check_extreme(LAYERS[kind], (4,), raw, dtype)


def _vectors(kind, rng):
    random = rng.standard_normal((12, 5))
    return {
        "random": random, "one direction": np.ones((12, 5)), "nearly one": 1 + 1e-4 * random, "tiny": 1e-30 * random,
        "huge": 1e30 * random, "some zero": random * (np.arange(12) % 2)[:, None], "all zero": 0 * random,
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["random", "one direction", "nearly one", "tiny", "huge", "some zero", "all zero"],
)  # fmt: skip
def test_the_product_of_reflections_is_orthogonal_and_is_that_product(kind):
    vectors = jnp.asarray(_vectors(kind, np.random.default_rng(0)), jnp.float32)
    v, t_inverse = compact(vectors)
    product = np.eye(5) - np.asarray(v.T @ jnp.linalg.solve(t_inverse, v), np.float64)
    np.testing.assert_allclose(product.T @ product, np.eye(5), rtol=0, atol=5e-6)
    one_by_one = np.eye(5)
    for vector in np.asarray(vectors, np.float64):
        square = vector @ vector
        one_by_one = one_by_one @ (np.eye(5) - 2 * np.outer(vector, vector) / square if square else np.eye(5))
    np.testing.assert_allclose(product, one_by_one, rtol=0, atol=1e-5)


def test_the_reflections_have_finite_gradients_at_zero():
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(compact(t)[0]) + jnp.sum(compact(t)[1])))(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_the_log_det_and_the_inverse_hold_where_the_layer_contracts_and_where_it_expands(kind, sign):
    layer, rng = LAYERS[kind], np.random.default_rng(2)
    with jax.enable_x64(True):
        template = jax.eval_shape(lambda key: layer.init(key, (4,)), jax.random.key(0))
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), template)
        width = len(params["bias"])
        params |= {
            "bias": jnp.zeros(width),
            "r": sign * jnp.eye(width) + 0.3 * rng.standard_normal((width, width)),
            "r_tilde": 2.0 * jnp.eye(width),
        }
        u = jnp.asarray(0.3 * rng.standard_normal(4))
        (_, log_det), jacobian, (back, info) = all_of(layer, params, u)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-11)
        assert sign * float(log_det) > 0.5
        assert bool(info.converged)
        assert int(info.steps) >= width
        np.testing.assert_allclose(back, u, rtol=0, atol=1e-11)


def test_the_layer_moves_events_in_as_many_directions_as_its_rank():
    layer = LAYERS["orthogonal"]
    params = jax.jit(layer.init, static_argnums=1)(jax.random.key(1), (6,))
    moved = jax.jit(jax.vmap(lambda u: layer.transform(params, u) - u))(jax.random.normal(jax.random.key(2), (20, 6)))
    assert np.linalg.matrix_rank(np.asarray(moved), tol=1e-5) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sylvester(kind="cayley", rank=2), "expected kind to be one of .*; got 'cayley'"),
        (lambda: sylvester(), "expected rank, and no other of .* with kind 'orthogonal'; got \\[\\]"),
        (lambda: sylvester(kind="householder", rank=2), "expected reflections, .*; got \\['rank'\\]"),
        (lambda: sylvester(kind="triangular", reverse=True, rank=1), "expected reverse, .*; got \\['rank', 'reverse'\\]"),
        (lambda: sylvester(rank=0), "expected rank >= 1; got 0"),
        (lambda: sylvester(rank=2, margin=0.0), "expected 0 < margin < 1; got 0.0"),
        (lambda: sylvester(rank=5).output_shape((2, 2)), "at least rank = 5 entries; got shape \\(2, 2\\)"),
        (lambda: sylvester(rank=5).init(jax.random.key(0), (4,)), "at least rank = 5 entries; got shape \\(4,\\)"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_description_rebuilds_the_identical_layer():
    for layer in LAYERS.values():
        assert from_spec(layer.spec) is layer
