"""The conditioner of couplings: how it starts, that it uses all of its parameters, and that blocks cost no compile time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.networks.residual_network import ResidualNetwork, fresh_parameters

SHAPES = {False: (40,), True: (3, 2, 8)}


@pytest.mark.parametrize("spatial", [False, True])
def test_it_starts_at_zero_with_kernels_of_variance_one_over_inputs(spatial):
    network = ResidualNetwork(outputs=5, hidden=24, blocks=3, spatial=spatial)
    u = jax.random.normal(jax.random.key(0), SHAPES[spatial])
    params = fresh_parameters(jax.random.key(1), network, u)
    template = jax.eval_shape(network.init, jax.random.key(0), u)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, template)
    output = network.apply({"params": params}, u)
    np.testing.assert_array_equal(output, np.zeros((*SHAPES[spatial][:-1], 5)))
    taps = 9 if spatial else 1
    for kernel, inputs in ((params["first"]["kernel"], u.shape[-1]), (params["blocks"]["inner"]["kernel"], 24)):
        # the square of a uniform variable of variance 1 has standard deviation sqrt(4 / 5)
        error = 5 * np.sqrt(0.8 / kernel.size)
        assert abs(np.mean(kernel**2) * taps * inputs - 1) < error


@pytest.mark.parametrize("spatial", [False, True])
def test_every_parameter_has_a_say_and_blocks_differ(spatial):
    network = ResidualNetwork(outputs=2, hidden=3, blocks=2, spatial=spatial)
    u = jax.random.normal(jax.random.key(0), SHAPES[spatial])
    params = jax.tree.map(lambda leaf: leaf + 0.3, fresh_parameters(jax.random.key(1), network, u))
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply({"params": p}, u) ** 2)))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.max(np.abs(leaf)) > 1e-6, path
    inner = params["blocks"]["inner"]["kernel"]
    assert np.max(np.abs(inner[0] - inner[1])) > 0.1


def test_the_program_does_not_grow_with_blocks():
    def size(blocks):
        network = ResidualNetwork(outputs=2, hidden=3, blocks=blocks, spatial=False)
        params = fresh_parameters(jax.random.key(1), network, jnp.zeros(4))
        return len(str(jax.make_jaxpr(lambda p: network.apply({"params": p}, jnp.zeros(4)))(params)).splitlines())

    assert size(2) == size(20)


def test_its_gradient_on_a_cpu_is_without_xlas_convolution():
    network = ResidualNetwork(outputs=2, hidden=3, blocks=3, spatial=True)
    u = jnp.zeros((4, 4, 2))
    params = network.init(jax.random.key(0), u)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, u))))
    assert "convolution" not in gradient.lower(params).as_text()
