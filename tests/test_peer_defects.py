"""Defects found in other libraries (docs/design.md, section 10), each held as a test of ours. Each names its peer."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.residual import residual_dense
from jaxflows.lipschitz import networks
from jaxflows.lipschitz.networks import _convolve
from jaxflows.lipschitz.spectral_norm import conv_norm
from jaxflows.log_det.estimators import power_series, russian_roulette
from jaxflows.solvers.fixed_point import fixed_point


def _scalar(gain, u):
    """The residual network g(u) = gain u, whose log det(1 + J) is d log(1 + gain)."""
    return gain * u


@functools.cache
def _small_block():
    """A contractive 4-dimensional block with numpy parameters: no time lost on init."""
    rng = np.random.default_rng(0)
    block, params = residual_dense(hidden=(6,), activation="tanh"), []
    for n_in, n_out in ((4, 6), (6, 4)):
        weight = rng.standard_normal((n_in, n_out))
        layer = {"weight": 0.9 * weight / np.linalg.norm(weight, 2), "bias": 0.1 * rng.standard_normal(n_out)}
        layer |= {"beta": np.zeros(n_out), "top": rng.standard_normal(n_in)}
        params.append(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), layer))
    return block, params


@pytest.mark.parametrize(("gain", "peer_error"), [(0.5, 3.5e-3), (0.9, 3.1e-2), (0.97, 1.0e-1)])
def test_the_stop_test_does_not_square_the_step(gain, peer_error):
    # residual-flows iresblock.py:73, normflows residual.py:137, implicit-nf, i-DenseNets, FlowConductor
    with jax.enable_x64(True):
        solve = fixed_point(lambda v, u: v + gain * u, tol=1e-5, history=0, max_steps=5000, contraction=gain)
        u, info = solve(jnp.float64(1.0 - gain), jnp.float64(0.0))
    assert bool(info.converged)
    assert abs(float(u) - 1.0) <= 1e-5 < peer_error / 100


def test_weights_of_a_batch_reach_only_their_own_examples():
    # residual-flows, normflows residual.py:335, implicit-nf, i-DenseNets: dL = grad_logdetgrad[0]
    block, params = _small_block()
    batch = jax.random.normal(jax.random.key(0), (8, 4))
    keys = jax.random.split(jax.random.key(1), 8)

    def first_only(batch):
        _, log_det = jax.vmap(lambda k, u: block.estimate(k, russian_roulette(), params, u))(keys, batch)
        return log_det.value[0]

    gradient = jax.jit(jax.grad(first_only))(batch)
    assert np.all(np.asarray(gradient[0]) != 0)
    np.testing.assert_array_equal(gradient[1:], 0.0)


def test_the_value_in_training_is_the_log_determinant():
    # the same family's neumann_logdet_estimator returns tr J (I + J)^-1: 0.336 for g = 0.5x, where log 1.5 = 0.405
    def loss(gain):
        value = russian_roulette(probes=4000)(jax.random.key(2), _scalar, 0.5, gain, jnp.ones(1))
        return value.value, value.std_error

    (value, error), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.float32(0.5))
    assert abs(float(value) - np.log(1.5)) < 5 * float(error)
    assert abs(float(value) - 0.336) > 5 * float(error)
    assert abs(float(slope) - 1 / 1.5) < 0.05


def test_the_default_roulette_has_finite_variance_at_every_lipschitz_constant():
    # the same family's p = 0.5 at coefficient 0.97: the second moment is finite only if Lip^2 <= 1 - p
    spreads = []
    for probes in (2_000, 32_000):
        estimator = russian_roulette(probes=probes)
        result = jax.jit(lambda key, e=estimator: e(key, _scalar, 0.97, -0.97, jnp.ones(1)))(jax.random.key(3))
        assert abs(float(result.value) - np.log(0.03)) < 5 * float(result.std_error)
        spreads.append(float(result.std_error) * np.sqrt(probes))
    # a heavy tail would make the spread grow with the number of draws
    assert 0.5 < spreads[1] / spreads[0] < 2.0


def test_every_random_term_has_expectation_one():
    # NuX nux/util/roulette.py: an index off by one gives every random term expectation two
    for position in (3, 6):
        # the k-th trace alone is not zero for a nilpotent shift of period k: only multiples of k have a trace
        cycle = jnp.roll(jnp.eye(position), 1, axis=0) * 0.8
        estimator = russian_roulette(exact_terms=1, continuation=0.8, probes=20_000)
        result = jax.jit(lambda key, a=cycle, e=estimator: e(key, lambda m, u: m @ u, 0.8, a, jnp.ones(len(a))))(
            jax.random.key(position)
        )
        truth = np.linalg.slogdet(np.eye(position) + np.asarray(cycle))[1]
        assert abs(truth) > 0.1
        assert abs(float(result.value) - truth) < 5 * float(result.std_error)
        assert abs(float(result.value) - 2 * truth) > 5 * float(result.std_error)


def test_the_log_series_is_not_mixed_with_the_neumann_product():
    # torchflows residual/log_abs_det_estimators.py estimates tr(J - J log(I + J)): 0.297 for g = 0.5x
    series = power_series(terms=60)(jax.random.key(4), _scalar, 0.5, 0.5, jnp.ones(1))
    np.testing.assert_allclose(series.value, np.log(1.5), atol=1e-6)


def test_the_constant_asked_for_is_used_and_hidden_layers_are_counted_right():
    # torchflows residual/iterative.py: c is never used (norms 1.01 to 1.15 at c = 0.7), widths and depths are mixed up
    for coeff in (0.3, 0.7):
        network = networks.dense(hidden=(16,), activation="tanh", coeff=coeff)
        params = jax.jit(network.init, static_argnums=1)(jax.random.key(5), (6,))
        assert [layer["weight"].shape for layer in params] == [(6, 16), (16, 6)]
        norm = np.prod([np.linalg.norm(np.asarray(layer["weight"]), 2) for layer in params])
        assert 0.99 * coeff < norm <= coeff * (1 + 1e-6)


def test_the_log_det_reaches_the_weights_and_is_taken_at_the_inverse():
    # FrEIA invertible_resnet.py: no graph to the weights; rev=True evaluates at y (-0.593), not at the inverse (-0.825)
    block, params = _small_block()
    v = 2.0 * jnp.ones(4)

    def inverse_log_det(params):
        u = jax.lax.stop_gradient(block.invert(params, v)[0])
        return block.inverse(params, v)[1], (block.forward(params, u)[1], block.forward(params, v)[1])

    (value, (at_inverse, at_value)), slope = jax.jit(jax.value_and_grad(inverse_log_det, has_aux=True))(params)
    np.testing.assert_allclose(value, -at_inverse, atol=1e-5)
    assert abs(float(value + at_value)) > 1e-2
    assert all(np.any(np.asarray(layer["weight"]) != 0) for layer in slope)


def test_the_convolution_is_measured_with_the_padding_it_uses():
    # FrEIA measures without the padding; equinox SpectralNorm and torchflows measure the reshaped kernel
    kernel = jnp.ones((3, 3, 1, 1)) + 0.1 * jax.random.normal(jax.random.key(6), (3, 3, 1, 1))
    operator = functools.partial(_convolve, kernel)
    matrix = np.asarray(jax.jit(jax.vmap(lambda e: operator(e.reshape(6, 6, 1)).reshape(-1)))(jnp.eye(36)))
    truth = np.linalg.norm(matrix, 2)
    measured = jax.jit(lambda k: conv_norm(functools.partial(_convolve, k), k, (6, 6, 1)))(kernel)
    np.testing.assert_allclose(measured, truth, rtol=1e-5)
    # the operator without padding is a restriction of it to interior outputs, and strictly smaller
    interior = np.pad(np.ones((4, 4), bool), 1).reshape(-1)
    assert np.linalg.norm(matrix[interior], 2) < 0.99 * truth
    assert np.linalg.norm(np.asarray(kernel).reshape(9, 1), 2) < 0.6 * truth


def test_the_numerical_inverse_has_gradients_both_ways_in_everything_it_depends_on():
    # flowjax 19.1.2 NumericalInverse: gradient in the condition raises; earlier versions gave silent zeros (#176, #216)
    block, params = _small_block()
    decode = invert(block).transform

    def value(params, v):
        return jnp.sum(jnp.sin(decode(params, v)))

    @jax.jit
    def seen(params, v):
        u = decode(params, v)
        forward = jax.jvp(lambda t: value(params, t), (v,), (jnp.ones(4),))[1]
        return *jax.grad(value, argnums=(0, 1))(params, v), forward, u, jax.jacfwd(lambda u: block.transform(params, u))(u)

    by_params, by_v, forward, u, jacobian = seen(params, jnp.arange(4.0))
    assert all(np.any(np.asarray(layer[field]) != 0) for layer in by_params for field in ("weight", "bias"))
    np.testing.assert_allclose(by_v, np.linalg.solve(np.asarray(jacobian).T, np.cos(u)), atol=1e-4)
    np.testing.assert_allclose(forward, np.sum(by_v), rtol=1e-4)
