"""Draws in pairs: the law of each stays, and what is odd cancels in a mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from jaxflows.conditional import posteriors
from jaxflows.conditional.complete import complete
from jaxflows.conditional.mixture import _anchors_of, draw_mixture
from jaxflows.conditional.pairs import in_pairs, pair_signs
from jaxflows.observation import mask
from jaxflows.solvers.chord import chord

KEY = jax.random.key(0)
OBSERVED = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def affine():
    return linear_flow(4, seed=0)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def paired(affine, rows):
    return complete(KEY, *affine, rows, OBSERVED, num_samples=200, antithetic=True, progress=False)


def test_of_an_affine_flow_the_mean_is_exact_and_the_spread_that_of_the_posterior(affine, rows, paired):
    mean, covariance = gaussian_of(*affine)
    for row, seen in enumerate(OBSERVED):
        centre, spread = conditional_of(mean, covariance, seen, rows[row])
        np.testing.assert_allclose(paired.mean[row][~seen], centre, atol=1e-4)
        half = paired.samples[row, ::2][:, ~seen] - centre
        # of 100 pairs, each counted once
        error = np.sqrt((np.outer(np.diag(spread), np.diag(spread)) + spread**2) / 100)
        assert np.all(np.abs(half.T @ half / 100 - spread) < 5 * error)
    middles = 0.5 * (paired.samples[:, ::2] + paired.samples[:, 1::2])
    np.testing.assert_allclose(middles, np.broadcast_to(paired.mean[:, None], middles.shape), atol=1e-3)


def test_weights_are_those_of_each_draw_alone(affine, rows, paired):
    mean, covariance = gaussian_of(*affine)
    part = covariance[np.ix_([0, 2], [0, 2])]
    gap = rows[0, [0, 2]] - mean[[0, 2]]
    evidence = -0.5 * gap @ np.linalg.solve(part, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * part)[1]
    np.testing.assert_allclose(paired.log_weights[0], evidence, atol=1e-3)
    assert paired.info.ess[0] > 199


def test_an_odd_number_leaves_the_last_draw_alone(affine, rows):
    odd = complete(KEY, *affine, rows, OBSERVED, num_samples=3, antithetic=True, progress=False)
    first, second, last = odd.samples[0] - conditional_mean(affine, rows)
    np.testing.assert_allclose(first, -second, atol=1e-4)
    assert np.abs(last - first).max() > 0.1
    one = complete(KEY, *affine, rows, OBSERVED, num_samples=1, antithetic=True, progress=False)
    alone = complete(KEY, *affine, rows, OBSERVED, num_samples=1, progress=False)
    np.testing.assert_array_equal(one.samples, alone.samples)
    assert in_pairs(jnp.arange(5)).tolist() == [0, 0, 1, 1, 2]
    assert pair_signs(5, jnp.float32).tolist() == [1.0, -1.0, 1.0, -1.0, 1.0]


def conditional_mean(affine, rows):
    centre, _ = conditional_of(*gaussian_of(*affine), OBSERVED[0], rows[0])
    full = rows[0].astype(float)
    full[~OBSERVED[0]] = centre
    return full


@pytest.mark.long
@pytest.mark.parametrize("weighted", [True, False])
def test_pairs_of_a_mixture_share_their_anchor_and_no_pair_is_torn(affine, rows, weighted):
    flow, params = affine
    options = {"num_samples": 12, "anchors": 2, "max_hidden": 2, "solver": chord(), "weighted": weighted}
    draws = jax.jit(
        lambda k: draw_mixture(
            k, flow, params, mask(jnp.asarray(OBSERVED[0])), jnp.asarray(rows[0]), antithetic=True, **options
        )
    )(KEY)
    # one anchor of an affine flow: draws of the posterior and of the Student law alike are symmetric about it
    np.testing.assert_allclose(draws.samples[::2] + draws.samples[1::2], 2 * jnp.broadcast_to(draws.anchor, (6, 4)), atol=1e-3)


def test_anchors_are_chosen_by_pairs():
    shares = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    chosen = np.asarray(_anchors_of(KEY, shares, 40, True))
    assert np.array_equal(chosen[::2], chosen[1::2])
    # systematic: every share to one pair
    assert np.all(np.abs(np.bincount(chosen, minlength=3) / 40 - [0.2, 0.5, 0.3]) <= 2 / 40)


def test_other_families_draw_in_pairs_too(affine, rows):
    prior = complete(
        KEY, *affine, rows, OBSERVED, num_samples=4, posterior=posteriors.prior(), antithetic=True, weighted=False,
        progress=False,
    )  # fmt: skip
    sums = prior.samples[:, ::2] + prior.samples[:, 1::2]
    np.testing.assert_allclose(sums[:, 0], sums[:, 1], atol=1e-3)
