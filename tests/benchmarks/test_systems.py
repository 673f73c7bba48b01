"""Comparators on a correlated Gaussian with holes: each learns more than the mean of a column."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.systems import SYSTEMS
from benchmarks.systems.emflow import JITTER, conditional
from benchmarks.systems.imputed import filled_by_neighbours
from benchmarks.systems.realnvp import RealNvp, decode, encode, fresh

SIZES = {
    "column_mean": {},
    "gaussian_em": {},
    "gaussian_pairwise": {},
    "mice": {"num_samples": 4},
    "missforest": {"trees": 10, "rounds": 2},
    "emflow": {"epochs": 15, "batch_size": 64, "learning_rate": 1e-3, "pairs": 1},
    "mcflow": {"epochs": 200, "learning_rate": 3e-3, "pairs": 1},
}


@pytest.fixture(scope="module")
def correlated():
    """Rows in (0, 1) of one factor and noise, a third of each missing."""
    rng = np.random.default_rng(0)
    factor, noise = rng.standard_normal((600, 1)), rng.standard_normal((600, 4))
    rows = np.clip(0.5 + 0.15 * factor + 0.04 * noise, 0, 1).astype(np.float32)
    mask = rng.random(rows.shape) > 0.3
    return rows[:400], mask[:400], rows[400:], mask[400:]


def rmse(values, truth, mask):
    return float(np.sqrt(np.mean((values - truth)[~mask] ** 2)))


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_every_system_learns_what_columns_tell_of_each_other(name, correlated):
    train, train_mask, test, test_mask = correlated
    # holes that hold nothing: no system may look into them
    arguments = np.where(train_mask, train, np.nan), train_mask, np.where(test_mask, test, np.nan), test_mask
    done = SYSTEMS[name](jax.random.key(0), *arguments, **SIZES[name])
    assert (done.mean[test_mask] == test[test_mask]).all()
    assert done.mean.min() >= 0
    assert done.mean.max() <= 1
    bare = SYSTEMS["column_mean"](jax.random.key(0), *arguments)
    if name != "column_mean":
        assert rmse(done.mean, test, test_mask) < 0.8 * rmse(bare.mean, test, test_mask)
        assert done.seconds > 0
        assert done.steps > 0
    if done.samples is not None:
        assert (done.samples[:, :, :] == test[:, None])[np.broadcast_to(test_mask[:, None], done.samples.shape)].all()
        assert done.samples.std(axis=1)[~test_mask].min() > 0


def test_realnvp_leads_back_and_knows_its_volume():
    flow = RealNvp(4, pairs=1)
    params = fresh(flow, jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
    z, log_det = encode(flow, params, x)
    np.testing.assert_allclose(decode(flow, params, z), x, atol=1e-5)
    jacobians = jax.vmap(jax.jacfwd(lambda t: encode(flow, params, t)[0]))(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(np.asarray(jacobians))[1], atol=1e-5)


def test_emflows_conditional_is_that_of_its_gaussian():
    rng = np.random.default_rng(1)
    root = rng.standard_normal((4, 4))
    covariance, mean, z = root @ root.T + np.eye(4), rng.standard_normal(4), rng.standard_normal(4)
    mask = np.array([True, False, True, False])
    centre, spread = conditional(*(jnp.asarray(t, jnp.float32) for t in (mean, covariance, z)), jnp.asarray(mask))
    seen = covariance[np.ix_(mask, mask)] + JITTER * np.eye(2)
    gain = np.linalg.solve(seen, covariance[np.ix_(mask, ~mask)]).T
    np.testing.assert_allclose(centre[~mask], mean[~mask] + gain @ (z - mean)[mask], rtol=1e-4)
    expected = covariance[np.ix_(~mask, ~mask)] - gain @ covariance[np.ix_(mask, ~mask)]
    np.testing.assert_allclose(spread[np.ix_(~mask, ~mask)], expected, rtol=1e-4)
    assert (spread[mask] == 0).all()
    assert (centre[mask] == jnp.asarray(z, jnp.float32)[mask]).all()


def test_images_are_first_filled_with_a_nearest_pixel():
    rows = np.array([[0.1, 0, 0, 0, 0, 0, 0, 0, 0.9]], np.float32)
    mask = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]], bool)
    filled = filled_by_neighbours(rows, mask, (3, 3)).reshape(3, 3)
    assert filled[0, 1] == filled[1, 0] == np.float32(0.1)
    assert filled[2, 1] == filled[1, 2] == np.float32(0.9)
    assert filled_by_neighbours(rows, np.zeros_like(mask), (3, 3)).max() == 0.5
