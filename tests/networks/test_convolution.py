"""The convolution against XLA's own: values, and derivatives of every kind that the library takes of it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.lipschitz import densenets, networks
from jaxflows.networks.convolution import convolution

# rows, columns, inputs and outputs of the kernel; sides of the images. Shifts are before the product, after it, or both
CASES = {
    "1x1": ((1, 1, 3, 2), (3, 4)),
    "few inputs": ((3, 3, 1, 5), (4, 5)),
    "few outputs": ((3, 3, 5, 1), (4, 5)),
    "as many": ((3, 3, 3, 3), (3, 4)),
    "even sides": ((2, 4, 3, 3), (5, 4)),
    "smaller than the kernel": ((5, 3, 2, 3), (2, 1)),
}


def xla(images, kernel):
    flat = images.reshape(-1, *images.shape[-3:])
    output = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return output.reshape(*images.shape[:-1], -1)


def ours(images, kernel):
    return convolution(images, kernel)


def everything(convolve, images, kernel):
    """Value, transposes, first and second derivatives by three nestings, batches of images and of kernels."""

    def energy(images, kernel):
        return jnp.sum(jnp.sin(convolve(images, kernel)))

    point, direction = (images, kernel), jax.tree.map(jnp.cos, (images, kernel))
    gradient = jax.grad(energy, argnums=(0, 1))

    def slope(images, kernel):
        return jax.jvp(energy, (images, kernel), direction)[1]

    def along(images, kernel):
        pairs = zip(gradient(images, kernel), direction, strict=True)
        return sum(jnp.vdot(g, d) for g, d in pairs)

    value, pull_back = jax.vjp(convolve, *point)
    _, push = jax.linearize(convolve, *point)
    return {
        "value": value,
        "pulled back": pull_back(jnp.cos(value)),
        "pushed": push(*direction),
        "transposed": jax.linear_transpose(lambda t: convolve(t, kernel), images)(jnp.cos(value)),
        "forward over reverse": jax.jvp(gradient, point, direction)[1],
        "reverse over forward": jax.grad(slope, argnums=(0, 1))(*point),
        "reverse over reverse": jax.grad(along, argnums=(0, 1))(*point),
        "images batched": jax.vmap(gradient, (0, None))(jnp.stack([images, 2 * images]), kernel),
        "kernels batched": jax.vmap(gradient, (None, 0))(images, jnp.stack([kernel, 2 * kernel])),
        "in a loop": jax.lax.fori_loop(0, 2, lambda _, t: images + 1e-2 * gradient(t, kernel)[0], images),
    }


@pytest.mark.parametrize(("name", "dtype"), [*((name, np.float64) for name in CASES), ("as many", np.float32)])
def test_it_is_xlas_convolution_with_all_its_derivatives(name, dtype):
    shape, size = CASES[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype is np.float64):
        kernel = jnp.asarray(rng.standard_normal(shape), dtype)
        images = jnp.asarray(rng.standard_normal((2, *size, shape[2])), dtype)
        found, expected = (jax.jit(functools.partial(everything, f))(images, kernel) for f in (ours, xla))
    # sums of some hundred terms of either sign
    tolerance = 100 * np.finfo(dtype).eps
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b)), err_msg=str(path))


def test_a_cpu_alone_is_without_xlas_convolution(monkeypatch):
    def program():
        # a function of its own each time: traces are remembered by function
        return str(jax.make_jaxpr(lambda *arguments: convolution(*arguments))(jnp.zeros((4, 4, 2)), jnp.zeros((3, 3, 2, 3))))

    assert "conv_general_dilated" not in program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in program()


@pytest.mark.parametrize("network", [networks.conv(channels=(3, 3)), densenets.conv_concat(channels=(3, 3))])
def test_residual_blocks_train_without_xlas_convolution_on_a_cpu(network):
    params = jax.eval_shape(lambda key: network.init(key, (4, 4, 1)), jax.random.key(0))

    def loss(params):
        return jnp.sum(network.apply(network.constrain(params), jnp.zeros((4, 4, 1))))

    assert "conv_general_dilated" not in str(jax.make_jaxpr(jax.grad(loss))(params))
