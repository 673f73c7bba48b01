"""Inference networks: shapes, the start at the prior, and what they see."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.networks.inference_network import ConvInference, DenseInference, fresh_network, inference_network


def randomised(params):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), params)


@pytest.mark.parametrize(("shape", "kind"), [((5,), DenseInference), ((4, 4), ConvInference), ((4, 4, 3), ConvInference)])
def test_the_default_fits_the_event_starts_at_the_prior_and_sees_values_and_mask(shape, kind):
    network = inference_network(shape)
    assert isinstance(network, kind)
    params = fresh_network(jax.random.key(0), network, shape, jnp.float32)
    values = jax.random.normal(jax.random.key(1), shape)
    seen = jax.random.bernoulli(jax.random.key(2), 0.5, shape)
    run = jax.jit(lambda p, v, s: network.apply({"params": p}, v, s))
    for output in run(params, values, seen):
        np.testing.assert_array_equal(output, np.zeros(shape))
    apply = functools.partial(run, randomised(params))
    first = apply(values, seen)
    for other in (apply(values + 1.0, seen), apply(values, ~seen)):
        for ours, theirs in zip(first, other, strict=True):
            assert ours.shape == shape
            assert (ours != theirs).any()
    batched = apply(jnp.stack([values, values]), jnp.stack([seen, seen]))
    np.testing.assert_allclose(batched[0][1], first[0], rtol=1e-5, atol=1e-6)


def test_the_papers_convolutions():
    params = fresh_network(jax.random.key(0), inference_network((4, 4, 1)), (4, 4, 1), jnp.float32)
    kernels = [params[f"Conv_{i}"]["kernel"].shape for i in range(6)]
    assert kernels == [(3, 3, a, b) for a, b in zip((2, 4, 8, 16, 32, 8), (4, 8, 16, 32, 8, 2), strict=True)]


def test_an_event_without_a_default_is_refused():
    with pytest.raises(ValueError, match=r"rank 1, 2 or 3 .*; got shape \(2, 2, 2, 2\)"):
        inference_network((2, 2, 2, 2))
