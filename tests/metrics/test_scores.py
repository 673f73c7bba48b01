"""Scores against their definitions written out as loops, their expectations, and their refusals."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.metrics import crps, diversity, energy_score, interval_coverage, rmse_mean, rmse_sample

ROWS, DRAWS, EVENT = 3, 5, (2, 3)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((ROWS, DRAWS, *EVENT)).astype(np.float32)
    truth = rng.standard_normal((ROWS, *EVENT)).astype(np.float32)
    observed = rng.random((ROWS, *EVENT)) < 0.4
    observed[0] = True
    return jnp.asarray(samples), jnp.asarray(truth), jnp.asarray(observed)


def missing_entries(samples, truth, observed):
    return [
        (np.asarray(samples)[(i, slice(None), *where)], float(truth[(i, *where)]))
        for i in range(len(truth))
        for where in itertools.product(*map(range, truth.shape[1:]))
        if not observed[(i, *where)]
    ]


def reference_rmse_mean(samples, truth, observed):
    return math.sqrt(np.mean([(s.mean() - y) ** 2 for s, y in missing_entries(samples, truth, observed)]))


def reference_rmse_sample(samples, truth, observed):
    return math.sqrt(np.mean([(s - y) ** 2 for s, y in missing_entries(samples, truth, observed)]))


def fair(distance, draws, y):
    pairs = [distance(a, b) for a, b in itertools.permutations(draws, 2)]
    return np.mean([distance(s, y) for s in draws]) - np.mean(pairs) / 2


def reference_crps(samples, truth, observed):
    return np.mean([fair(lambda a, b: abs(a - b), s, y) for s, y in missing_entries(samples, truth, observed)])


def reference_diversity(samples, truth, observed):
    pairs = [(a - b) ** 2 / 2 for s, _ in missing_entries(samples, truth, observed) for a, b in itertools.combinations(s, 2)]
    return math.sqrt(np.mean(pairs))


def diversity_of(samples, truth, observed):
    del truth
    return diversity(samples, observed)


def reference_energy(samples, truth, observed):
    scores = []
    for s, y, o in zip(np.asarray(samples), np.asarray(truth), np.asarray(observed), strict=True):
        if not o.all():
            scores.append(fair(lambda a, b: np.linalg.norm(a - b), s[:, ~o], y[~o]))
    return np.mean(scores)


SCORES = [
    (rmse_mean, reference_rmse_mean),
    (rmse_sample, reference_rmse_sample),
    (crps, reference_crps),
    (diversity_of, reference_diversity),
    (energy_score, reference_energy),
]


@functools.cache
def with_gradient(score):
    """A score and its gradient in the samples, compiled once for all that follows."""
    return jax.jit(jax.value_and_grad(score))


@pytest.mark.parametrize(("score", "reference"), SCORES)
def test_a_score_is_its_definition(case, score, reference):
    np.testing.assert_allclose(score(*case), reference(*case), rtol=1e-5)
    np.testing.assert_allclose(with_gradient(score)(*case)[0], reference(*case), rtol=1e-5)


@pytest.mark.parametrize("score", [score for score, _ in SCORES])
def test_observed_entries_do_not_count_not_even_nan_ones(case, score):
    samples, truth, observed = case
    spoilt = jnp.where(observed, jnp.nan, truth)
    value, gradient = with_gradient(score)(samples, spoilt, observed)
    np.testing.assert_array_equal(value, with_gradient(score)(samples, truth, observed)[0])
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("score", [score for score, _ in SCORES])
def test_gradients_are_finite_and_right(case, score):
    samples, truth, observed = case
    _, gradient = with_gradient(score)(samples, truth, observed)
    direction = np.random.default_rng(1).standard_normal(samples.shape).astype(np.float32)
    step = 1e-2
    above, below = (with_gradient(score)(samples + sign * step * direction, truth, observed)[0] for sign in (1, -1))
    np.testing.assert_allclose(np.sum(gradient * direction), (above - below) / (2 * step), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("score", [score for score, _ in SCORES])
def test_nothing_missing_is_nan(case, score):
    samples, truth, _ = case
    assert np.isnan(with_gradient(score)(samples, truth, jnp.ones_like(truth, bool))[0])


def test_an_exact_posterior_is_covered_as_often_as_the_level_says():
    """Ties (a variable that is 0 half of the time) and few samples included."""
    rows, draws = 4000, 4
    values = jax.random.normal(jax.random.key(2), (rows, draws + 1, 1)).clip(0.0)
    observed = jnp.zeros((rows, 1), bool)
    for level in (0.1, 0.5, 0.9):
        seen = interval_coverage(jax.random.key(3), values[:, 1:], values[:, 0], observed, level)
        assert abs(seen - level) < 5 * math.sqrt(level * (1 - level) / rows)


def test_too_narrow_a_posterior_is_seen():
    truth = jax.random.normal(jax.random.key(4), (2000, 1))
    samples = 0.5 * jax.random.normal(jax.random.key(5), (2000, 63, 1))
    observed = jnp.zeros((2000, 1), bool)
    # P(|y| < 0.5 Phi^-1(0.95)) = 0.589
    seen = interval_coverage(jax.random.key(6), samples, truth, observed, 0.9)
    assert abs(seen - 0.589) < 0.06
    sharp = crps(jax.random.normal(jax.random.key(7), samples.shape), truth, observed)
    assert sharp < crps(samples, truth, observed)


def test_crps_of_the_exact_posterior_has_its_known_mean():
    rows = 20_000
    truth = jax.random.normal(jax.random.key(8), (rows, 1))
    samples = jax.random.normal(jax.random.key(9), (rows, 2, 1))
    observed = jnp.zeros((rows, 1), bool)
    each = jax.jit(jax.vmap(lambda s, t, o: crps(s[None], t[None], o[None])))(samples, truth, observed)
    # E|s - y| - E|s - s'| / 2 = E|s - y| / 2 = 1 / sqrt(pi)
    assert abs(crps(samples, truth, observed) - 1 / math.sqrt(math.pi)) < 5 * float(jnp.std(each)) / math.sqrt(rows)


@pytest.mark.parametrize("count", [4, 5])
def test_crps_of_antithetic_samples_leaves_partners_out(count):
    rows = 20_000
    truth = jax.random.normal(jax.random.key(8), (rows, 1))
    half = jax.random.normal(jax.random.key(9), (rows, -(-count // 2), 1))
    samples = jnp.stack([half, -half], axis=2).reshape(rows, -1, 1)[:, :count]
    observed = jnp.zeros((rows, 1), bool)
    each = jax.jit(jax.vmap(lambda s, t, o: crps(s[None], t[None], o[None], antithetic=True)))(samples, truth, observed)
    error = float(jnp.std(each)) / math.sqrt(rows)
    score = crps(samples, truth, observed, antithetic=True)
    assert abs(score - 1 / math.sqrt(math.pi)) < 5 * error
    assert crps(samples, truth, observed) < score - 5 * error
    with pytest.raises(ValueError, match="num_samples >= 3"):
        crps(samples[:, :2], truth, observed, antithetic=True)


@pytest.mark.parametrize("score", [score for score, _ in SCORES if score is not diversity_of])
def test_wrong_shapes_are_refused(case, score):
    samples, truth, observed = case
    with pytest.raises(ValueError, match=r"expected samples of shape \(rows, num_samples >= \d, \*event\).*got \(3, 2, 3\)"):
        score(truth, truth, observed)
    with pytest.raises(ValueError, match="expected a boolean mask of the truth's shape"):
        score(samples, truth, observed[:1])
    with pytest.raises(ValueError, match="got float32"):
        score(samples, truth, observed.astype(jnp.float32))


def test_scores_of_spread_need_two_samples_and_a_sensible_level(case):
    samples, truth, observed = case
    for score in (crps, energy_score):
        with pytest.raises(ValueError, match="num_samples >= 2"):
            score(samples[:, :1], truth, observed)
    with pytest.raises(ValueError, match=r"probability in \(0, 1\); got 90"):
        interval_coverage(jax.random.key(0), samples, truth, observed, 90)


def test_diversity_needs_two_samples_of_the_observed_shape(case):
    samples, _, observed = case
    with pytest.raises(ValueError, match=r"expected samples of shape \(rows, num_samples >= 2, .*; got \(3, 1, 2, 3\)"):
        diversity(samples[:, :1], observed)
    with pytest.raises(ValueError, match=r"for rows and events \(1, 2, 3\); got \(3, 5, 2, 3\)"):
        diversity(samples, observed[:1])
