"""Densely connected networks: the certified constant against numeric Jacobians, and the constraint after rough handling."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.lipschitz.densenets import conv_concat, dense_concat

NETWORKS = {
    "dense": (dense_concat(hidden=(8, 6)), (5,)),
    "dense_tanh": (dense_concat(hidden=(4,), activation="tanh", coeff=0.5), (2, 3)),
    "conv": (conv_concat(channels=(3, 2)), (3, 4, 2)),
}
every_network = pytest.mark.parametrize("name", sorted(NETWORKS))


@functools.cache
def initial(name):
    network, shape = NETWORKS[name]
    return jax.jit(network.init, static_argnums=1)(jax.random.key(0), shape)


def _with_angle(params, angle):
    return [{**layer, "angle": jnp.float32(angle)} for layer in params[:-1]] + params[-1:]


@every_network
def test_the_start_is_inside_the_constraint_and_near_it(name):
    network, _ = NETWORKS[name]
    assert 0.99 * network.coeff <= float(network.certify(initial(name))) <= network.coeff


@functools.cache
def norms_and_bound(name):
    """``(params, events)``: the norms of the Jacobians there and the certificate, compiled once for all angles."""
    network, _ = NETWORKS[name]

    def jacobian(params, t):
        return jax.jacfwd(lambda s: network.apply(params, s))(t).reshape(t.size, t.size)

    found = jax.jit(lambda params, u: (jax.vmap(jacobian, in_axes=(None, 0))(params, u), network.certify(params)))

    def run(params, u):
        jacobians, certificate = found(params, u)
        return np.linalg.norm(jacobians, ord=2, axis=(1, 2)), certificate

    return run


@every_network
@pytest.mark.parametrize("angle", [0.0, np.pi / 4, np.pi / 2, -2.0, 1e4])
def test_no_jacobian_exceeds_the_certificate_whatever_the_angle(name, angle):
    network, shape = NETWORKS[name]
    params = _with_angle(initial(name), angle)
    u = 2.0 * np.random.default_rng(2).standard_normal((32, *shape)).astype(np.float32)
    norms, bound = norms_and_bound(name)(params, u)
    assert np.all(norms <= bound * (1 + 1e-5))
    assert bound <= network.coeff
    assert np.max(norms) > 0.05 * network.coeff


def test_with_no_new_part_the_network_is_its_last_layer_and_the_certificate_is_tight():
    network, _ = NETWORKS["dense"]
    params = _with_angle(initial("dense"), 0.0)
    # the event is carried through in front: only those rows of the last matrix are met
    u = jnp.arange(5.0)
    np.testing.assert_allclose(network.apply(params, u), u @ params[-1]["weight"][:5] + params[-1]["bias"], rtol=1e-5)
    norm = np.linalg.norm(np.asarray(params[-1]["weight"], np.float64), 2)
    np.testing.assert_allclose(network.certify(params), norm, rtol=1e-5)


@every_network
def test_the_constraint_returns_after_a_large_perturbation(name):
    network, _ = NETWORKS[name]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), initial(name))
    assert float(network.certify(params)) > 2 * network.coeff
    settled = jax.jit(lambda p: jax.lax.fori_loop(0, 100, lambda _, q: network.constrain(q), p))(params)
    assert float(network.certify(settled)) <= network.coeff * (1 + 1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dense_concat(hidden=()), "hidden widths, at least one and all positive; got \\(\\)"),
        (lambda: dense_concat(hidden=(3,), coeff=1.0), "expected 0 < coeff < 1; got 1.0"),
        (lambda: conv_concat(channels=(3,)), "expected 2 odd kernel sides; got \\(3, 3, 1\\)"),
        (lambda: conv_concat(channels=(3, 3)).init(jax.random.key(0), (4,)), "\\(height, width, channels\\); got \\(4,\\)"),
        (lambda: dense_concat(hidden=(8, 6)).apply(initial("dense"), jnp.zeros(6)), "shape \\(5,\\).*; got \\(6,\\)"),
    ],
)
def test_options_and_shapes_that_do_not_fit_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
