"""A turn of completions: who moves, who stays and who begins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.metrics import Gaussian
from jaxflows.training.gaussian_completions import mass_moments, slots
from jaxflows.training.joint_loss import IncompleteBatch
from jaxflows.training.moving_rows import Chains, Turn, moved_batch
from tests.training.affine_rows import AFFINE, affine_start, gaussian_rows

ROWS, OBSERVED = gaussian_rows(64)
PARAMS = affine_start(ROWS)
GAUSSIAN = Gaussian((3,), ROWS.mean(axis=0).astype(float), np.linalg.cholesky(np.cov(ROWS, rowvar=False)))
BOUNDS = slots(OBSERVED)
MOMENTS = mass_moments(GAUSSIAN, None, BOUNDS, jnp.float32)
KEY = jax.random.key(0)


def turn_of(moves: int) -> tuple:
    """The jitted turn, and a batch of every row."""
    filled = np.where(OBSERVED, ROWS, 0).astype(np.float32)
    batch = IncompleteBatch(jnp.asarray(filled), jnp.asarray(OBSERVED), jnp.full(len(ROWS), -1))
    return jax.jit(moved_batch(AFFINE, MOMENTS, BOUNDS, moves, None, None, 1)), Turn(jnp.arange(len(ROWS)), batch)


def test_rows_that_have_not_begun_do_so_where_nothing_moves():
    turned, turn = turn_of(1)
    began = jnp.arange(len(ROWS)) % 2 == 0
    chains = Chains(jnp.full(ROWS.shape, 9.0), began, jnp.zeros(()))
    after, completions, acceptance = turned(KEY, PARAMS, chains, turn, jnp.asarray(False))
    assert np.isnan(acceptance)
    assert np.all(after.begun)
    assert after.log_step == 0
    np.testing.assert_array_equal(after.y, completions)
    hidden = ~OBSERVED
    np.testing.assert_array_equal(np.asarray(completions)[OBSERVED], ROWS[OBSERVED])
    np.testing.assert_array_equal(np.asarray(completions)[hidden & np.asarray(began)[:, None]], 9.0)
    fresh = np.asarray(completions)[hidden & ~np.asarray(began)[:, None]]
    # draws of the Gaussian, whose means are -2 to 1
    assert np.all(np.abs(fresh) < 8)
    assert len(np.unique(fresh)) == len(fresh)
    again, stayed, _ = turned(jax.random.key(1), PARAMS, after, turn, jnp.asarray(False))
    np.testing.assert_array_equal(stayed, completions)
    _, moved, chance = turned(jax.random.key(1), PARAMS, again, turn, jnp.asarray(True))
    assert 0 < chance <= 1
    assert np.mean(np.asarray(moved)[hidden] != np.asarray(completions)[hidden]) > 0.3
