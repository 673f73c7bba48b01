"""The amortised posterior: its draws are those of the network's Gaussian, in training and in completion alike."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.conditional.amortised import Amortised, amortised_draw
from jaxflows.conditional.complete import complete
from jaxflows.conditional.elbo import log_det_gap
from jaxflows.conditional.hidden import hidden
from jaxflows.observation import linear, mask
from jaxflows.solvers.boundary_sweep import boundary_sweep
from tests.training.affine_rows import AFFINE, SIZE

MU, SIGMA = np.array([0.5, -1.0, 2.0]), np.array([0.5, 2.0, 0.7])
SEEN = np.array([[True, False, False], [False, True, False]])
ROWS = np.where(SEEN, np.array([[0.4, 0.0, 0.0], [0.0, -1.2, 0.0]]), np.nan).astype(np.float32)
DRAWS = 400
KEY = jax.random.key(0)


class _Fixed(nn.Module):
    """Says the same of every row."""

    @nn.compact
    def __call__(self, standard, observed):
        mu = self.param("mu", lambda key: jnp.asarray(MU, standard.dtype))
        log_sigma = self.param("log_sigma", lambda key: jnp.log(jnp.asarray(SIGMA, standard.dtype)))
        return mu, log_sigma


POSTERIOR = Amortised(
    _Fixed(), {"mu": jnp.asarray(MU, jnp.float32), "log_sigma": jnp.asarray(np.log(SIGMA), jnp.float32)}, jnp.zeros(SIZE),
    jnp.ones(SIZE),
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    factors = 0.3 * np.random.default_rng(0).standard_normal((SIZE, SIZE))
    affine = {"shift": jnp.array([0.1, -0.2, 0.3]), "log_scale": jnp.array([0.2, 0.0, -0.3])}
    return affine, {"factors": jnp.asarray(factors, jnp.float32), "order": jnp.arange(float(SIZE))}


@pytest.fixture(scope="module")
def completion(params):
    return complete(KEY, AFFINE, params, ROWS, SEEN, posterior=POSTERIOR, num_samples=DRAWS, progress=False)


def test_the_free_latents_of_a_completion_have_the_networks_moments(params, completion):
    latents = np.asarray(jax.jit(jax.vmap(jax.vmap(lambda y: AFFINE.encode(params, y))))(completion.samples))
    for x, seen in zip(latents, SEEN, strict=True):
        normal = ((x - MU) / SIGMA)[:, ~seen]
        assert np.all(np.abs(normal.mean(axis=0)) < 5 / np.sqrt(DRAWS))
        # the variance of a variance of n normal draws is 2 / n
        assert np.all(np.abs(normal.var(axis=0) - 1) < 5 * np.sqrt(2 / DRAWS))
        assert abs(np.mean(normal[:, 0] * normal[:, 1])) < 5 / np.sqrt(DRAWS)


def test_training_and_completion_give_the_same_bound(params, completion):
    def weight(eps, y, seen):
        where = hidden(mask(seen))
        known = where.observation.observed_part(y)
        gap = lambda t: log_det_gap(AFFINE, params, where, t)  # noqa: E731
        drawn = amortised_draw(eps, AFFINE, params, POSTERIOR, known, seen, boundary_sweep(), gap)
        return drawn.log_weight, drawn.info.converged

    eps = jax.random.normal(jax.random.key(1), (DRAWS, SIZE))
    for number in range(2):
        weights, converged = jax.jit(jax.vmap(weight, in_axes=(0, None, None)))(
            eps, jnp.nan_to_num(ROWS[number]), jnp.asarray(SEEN[number])
        )
        assert converged.all()
        error = np.hypot(np.std(weights) / np.sqrt(DRAWS), completion.info.bound_std_error[number])
        assert abs(np.mean(weights) - completion.info.bound[number]) < 5 * error


@pytest.mark.long
def test_refinement_starts_at_the_networks_answer_and_raises_the_bound(params, completion):
    refined = complete(KEY, AFFINE, params, ROWS, SEEN, posterior=POSTERIOR, num_samples=DRAWS, fit_steps=20, progress=False)
    error = np.hypot(completion.info.bound_std_error, refined.info.bound_std_error)
    assert np.all(refined.info.bound - completion.info.bound > 5 * error)


@pytest.mark.parametrize(
    ("rows", "observed", "partition", "message"),
    [
        (ROWS, SEEN, "tangent", "partition 'same' with an amortised posterior.*got ndarray and 'tangent'"),
        (np.zeros((1, 1), np.float32), linear(np.ones((1, SIZE))), "auto", "expected masks .*got LinearMeasurement"),
    ],
)
def test_what_the_network_knows_nothing_of_is_refused(params, rows, observed, partition, message):
    with pytest.raises(ValueError, match=message):
        complete(KEY, AFFINE, params, rows, observed, posterior=POSTERIOR, partition=partition, progress=False)
