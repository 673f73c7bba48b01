"""The race of families: what is raced is alike, and a result that is not finite is refused. PyTorch is not needed here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import family_peers as peers
from benchmarks.residual_flow_peers import race


def size_of(make):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(make)))


@pytest.mark.parametrize("sizes", [peers.FULL, peers.QUICK], ids=["full", "quick"])
@pytest.mark.parametrize("family", ["realnvp", "spline"])
def test_as_many_parameters_in_every_jax_library(family, sizes):
    count = size_of(lambda: peers.ours(family, sizes[family]).params)
    assert count > 5000
    for make in peers.JAX_PEERS.values():
        theirs = size_of(lambda make=make: make(family, sizes[family]).params)
        assert max(count, theirs) <= (1.0 + peers.ALIKE) * min(count, theirs)


def test_distrax_with_our_weights_is_our_flow():
    sizes = peers.Sizes(4, 4, 8, 2)
    mine, theirs = peers.ours("realnvp", sizes), peers.distrax_flow("realnvp", sizes)
    rng = np.random.default_rng(0)
    norm, couplings = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), leaf.dtype), mine.params)
    # the affine map before our couplings, which distrax has not, left at the identity
    norm = jax.tree.map(jnp.zeros_like, norm)
    layers = [{"params": jax.tree.map(lambda leaf, i=i: leaf[i], part)} for i in range(2) for part in couplings]
    y = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
    np.testing.assert_allclose(mine.log_prob((norm, couplings), y), theirs.log_prob(layers, y), rtol=1e-4, atol=1e-4)


def test_a_training_step_of_a_contender_goes_on_from_the_last():
    flow = peers.by_density(jnp.zeros(()), lambda p, y: -((y - p) ** 2), lambda key, p, n: p + jax.random.normal(key, (n,)))
    density, sample, step = peers.jax_contenders("toy", flow, np.full(3, 2.0, np.float32), {"parameters": 1})
    np.testing.assert_allclose(density.run(), -4.0)
    assert sample.run().shape == (3,)
    losses = [float(step.run()) for _ in range(3)]
    assert losses[0] == 4.0
    assert losses[0] > losses[1] > losses[2]
    (row,) = race([step], 2)
    assert (row["library"], row["parameters"]) == ("toy", 1)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(RuntimeError, match="expected finite numbers from them; got NaN or infinity"):
        race([peers.contender("them", lambda: np.array([0.0, np.nan]), 0.0, {})], 1)
