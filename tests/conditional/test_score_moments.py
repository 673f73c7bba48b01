"""The Gaussian that draws and gradients tell of, the members of each family nearest to it, and fits that use both."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.known_flows import gaussian_of, linear_flow
from jaxflows.conditional import posteriors
from jaxflows.conditional.fit_posterior import fit_posterior
from jaxflows.conditional.score_moments import implied_gaussian, score_moments
from jaxflows.observation import mask

SLOTS, RANK = 6, 2


def _low_rank(used):
    """Mean and precision whose deviation from N(0, I) has rank 2 in the used slots, or less."""
    rng = np.random.default_rng(0)
    directions = np.where(used[:, None], rng.standard_normal((SLOTS, RANK)), 0.0)
    directions = np.linalg.svd(directions, full_matrices=False)[0][:, : min(RANK, used.sum())]
    precision = np.eye(SLOTS) + directions @ np.diag([3.0, -0.6][: directions.shape[1]]) @ directions.T
    return jnp.asarray(np.where(used, rng.standard_normal(SLOTS), 0.0), jnp.float32), jnp.asarray(precision, jnp.float32)


FAMILIES = {"householder": posteriors.householder(num_reflections=RANK), "full_rank": posteriors.full_rank()}
# five slots used, fewer used than reflections, and one
USED = jnp.arange(SLOTS) < jnp.array([5, 1, 2, 6])[:, None]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_nearest_member_is_a_gaussian_that_the_family_holds(family):
    gaussians = [_low_rank(np.asarray(used)) for used in USED]
    means, precisions = (jnp.stack(part) for part in zip(*gaussians, strict=True))

    def moments(used, mean, precision):
        theta = family.nearest(used, mean, precision)
        push = lambda eps: family.transform(theta, used, jnp.where(used, eps, 0.0))  # noqa: E731
        factor = jax.jacfwd(push)(jnp.zeros(SLOTS))
        return push(jnp.zeros(SLOTS)), factor @ factor.T

    centres, covariances = jax.jit(jax.vmap(moments))(USED, means, precisions)
    np.testing.assert_allclose(centres, means, atol=1e-5)
    inside = np.asarray(USED)[:, :, None] & np.asarray(USED)[:, None, :]
    np.testing.assert_allclose(covariances, np.where(inside, np.linalg.inv(precisions), 0.0), atol=1e-4)


def test_mean_field_takes_the_scales_of_least_divergence():
    used = USED[0]
    mean, precision = _low_rank(np.asarray(used))
    theta = posteriors.mean_field().nearest(used, mean, precision)
    np.testing.assert_allclose(np.exp(-2 * theta["log_sigma"])[:5], jnp.diagonal(precision)[:5], rtol=1e-4)


def test_moments_tell_of_the_target_whatever_the_draws_are_from():
    used = USED[0]
    mean, precision = _low_rank(np.asarray(used))
    eta = jnp.where(used, 0.5 + 0.7 * jax.random.normal(jax.random.key(0), (4000, SLOTS)), 0.0)
    rest = -(eta - mean) @ precision + eta
    broken = rest.at[0].set(jnp.nan)
    found = implied_gaussian(score_moments(eta, broken, jnp.arange(4000) != 1), used)
    # what is left is the pull of the ridge, ten draws in 4000
    np.testing.assert_allclose(found[0], mean, atol=2e-2)
    np.testing.assert_allclose(found[1], precision, atol=4e-2)
    nothing = implied_gaussian(score_moments(eta, broken, jnp.zeros(4000, bool)), used)
    np.testing.assert_allclose(nothing[0], 0.0)
    np.testing.assert_allclose(nothing[1], jnp.eye(SLOTS), atol=1e-6)


@pytest.fixture(scope="module")
def low_rank_problem():
    """``(flow, params, observed, arguments)`` of a fit of two rows, six of eight entries hidden in one and one in the other.

    The posterior of an affine flow is the prior but for as many directions as are observed, and is in the family.
    """
    flow, params = linear_flow(SLOTS + RANK, seed=3, coeff=0.6)
    observed = np.stack([np.arange(SLOTS + RANK) < RANK, np.arange(SLOTS + RANK) != 3])
    options = {
        "posterior": posteriors.householder(num_reflections=RANK, start="prior"), "optimizer": optax.adam(3e-2), "steps": 60,
        "partition": "same", "tolerance": 0.0, "progress": False,
    }  # fmt: skip
    rows = jax.vmap(mask)(jnp.asarray(observed)), jnp.asarray([[0.5], [-0.3]]) * jnp.ones(SLOTS + RANK)
    return flow, params, observed, rows, options


@pytest.fixture(scope="module")
def low_rank_fit(low_rank_problem):
    flow, params, _, rows, options = low_rank_problem
    return fit_posterior(jax.random.key(0), flow, params, *rows, **options)


@pytest.mark.long
def test_a_householder_fit_finds_a_covariance_of_low_rank(low_rank_problem, low_rank_fit):
    flow, params, observed, (_, y), _ = low_rank_problem
    fitted, trace = low_rank_fit
    mean, covariance = gaussian_of(flow, params)
    assert fitted.theta["vectors"].shape == (2, RANK, SLOTS)
    assert trace.bound.shape == (4, 2)
    assert np.all(trace.unconverged == 0)
    for row, seen in enumerate(observed):
        part, gap = covariance[np.ix_(seen, seen)], (np.asarray(y[row]) - mean)[seen]
        evidence = -0.5 * gap @ np.linalg.solve(part, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * part)[1]
        left = evidence - trace.bound[:, row]
        # diagonal scales alone, which is what reflections with no gradient leave, close no more than a part of it
        assert np.abs(left[-1]) < 0.02 * left[0]


@pytest.mark.long
def test_what_a_rows_fit_gives_depends_on_its_key_and_not_on_the_rows_beside_it(low_rank_problem, low_rank_fit):
    flow, params, _, rows, options = low_rank_problem
    fitted, trace = low_rank_fit
    keys = jax.random.split(jax.random.key(0), 2)[::-1]
    turned, back = fit_posterior(keys, flow, params, *jax.tree.map(lambda leaf: leaf[::-1], rows), **options)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours[::-1], theirs, rtol=1e-5), turned.theta, fitted.theta)
    np.testing.assert_allclose(back.bound[:, ::-1], trace.bound, rtol=1e-5)
    with pytest.raises(ValueError, match="expected y_observed and observations of shape"):
        fit_posterior(jax.random.key(0), flow, params, rows[0], rows[1][:, :2], progress=False)
