"""One training step: its gradient at the edge of the Lipschitz ball, its average, and the settling of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflows import flows
from jaxflows.log_det.estimators import power_series
from jaxflows.training.step import TrainState, negative_log_likelihood, settle, training_step

FLOW = flows.residual(event_shape=(4,), blocks=3, hidden=8)
BATCH = jax.random.normal(jax.random.key(5), (32, 4))
# compiled once: step by step they compile every operation by itself
fresh, constrain, lipschitz = (jax.jit(run) for run in (FLOW.init, FLOW.bijector.constrain, FLOW.bijector.lipschitz))


def weights(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [np.asarray(leaf) for path, leaf in leaves if getattr(path[-1], "key", None) == "weight"]


def scaled(params, factor):
    def scale(path, leaf):
        return factor * leaf if getattr(path[-1], "key", None) == "weight" else jnp.array(leaf)

    return jax.tree_util.tree_map_with_path(scale, params)


@pytest.fixture(scope="module")
def stepped():
    """A gradient step of rate 1 from weights half as large again as the constraint allows."""
    raw = scaled(fresh(jax.random.key(0)), 1.5)
    optimizer = optax.sgd(1.0)
    loss = negative_log_likelihood(FLOW, power_series(terms=4), None)
    step = training_step(FLOW, loss, optimizer, None, jax.random.key(1), 0.9)
    before = jax.tree.map(np.asarray, raw)
    start = TrainState(raw, optimizer.init(raw), jax.tree.map(jnp.zeros_like, raw), None)
    state, value = step(start, BATCH, jnp.asarray(7, jnp.int32), jnp.asarray(7.0))
    return before, state, value


def test_a_push_that_only_scales_a_weight_has_no_gradient(stepped):
    before, state, _ = stepped
    for old, new in zip(weights(before), weights(state.raw), strict=True):
        for block_old, block_gradient in zip(old, old - new, strict=True):
            size = np.linalg.norm(block_old) * np.linalg.norm(block_gradient)
            assert size > 0
            assert abs(np.vdot(block_old, block_gradient)) < 1e-3 * size


def test_the_loss_is_that_of_the_constrained_parameters(stepped):
    before, _, value = stepped
    loss = jax.jit(negative_log_likelihood(FLOW, power_series(terms=4), None))
    expected = loss(jax.random.fold_in(jax.random.key(1), 7), constrain(before), BATCH)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_average_moves_towards_the_constrained_parameters(stepped):
    before, state, _ = stepped
    # at step 7 the decay is (1 + 7) / (10 + 7), and the average was zero
    for average, params in zip(weights(state.average), weights(constrain(before)), strict=True):
        np.testing.assert_allclose(average, (1 - 8 / 17) * params, rtol=1e-4, atol=1e-6)


def test_settling_brings_foreign_weights_inside_the_bound():
    key = jax.random.key(2)
    loose = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), fresh(key))
    assert lipschitz(loose) > 1
    assert lipschitz(settle(FLOW, loose)) <= 0.95


def test_noise_and_probes_follow_the_key():
    params = fresh(jax.random.key(0))
    noisy = jax.jit(negative_log_likelihood(FLOW, power_series(), lambda k, y: y + jax.random.normal(k, y.shape)))
    first, again, other = (noisy(jax.random.key(i), params, BATCH) for i in (0, 0, 1))
    assert first == again != other
