"""The benchmark of known conditionals: its exact laws are right, and its tests tell a wrong posterior from a right one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks import conditional_truth as truth
from benchmarks.known_flows import affine_flow, bent_mixture, mixture_flow


@pytest.mark.parametrize("name", truth.AFFINE)
def test_affine_members_are_affine_and_not_trivial(name):
    flow = truth.AFFINE[name]()
    params = affine_flow(flow, 3)
    encode = jax.jit(jax.vmap(lambda y: flow.encode(params, y).reshape(-1)))
    directions = 2.0 * np.eye(4, dtype=np.float32).reshape(4, *flow.event_shape)
    origin, at_directions, at_opposite, at_double = np.split(
        np.asarray(encode(jnp.concatenate([jnp.zeros_like(directions), directions, -directions, 2 * directions]))), 4
    )
    np.testing.assert_allclose(at_directions - origin, origin - at_opposite, atol=2e-5)
    np.testing.assert_allclose(at_double - origin, 2 * (at_directions - origin), atol=4e-5)
    jacobian = (at_directions - origin) / 2.0
    # every entry of the event acts on others, so that a conditional is not the marginal
    assert np.all(np.sum(np.abs(jacobian) > 1e-3, axis=1) > 1)


def test_the_mixture_is_transported_exactly():
    mixture = bent_mixture()
    flow, params = mixture_flow(mixture)
    events = mixture.sample(np.random.default_rng(0), 200).astype(np.float32)
    components = [scipy.stats.multivariate_normal(m, f @ f.T) for m, f in zip(mixture.means, mixture.factors, strict=True)]
    expected = np.log(sum(w * law.pdf(events) for w, law in zip(mixture.weights, components, strict=True)))
    np.testing.assert_allclose(mixture.log_density(events), expected, rtol=1e-10)
    found = jax.jit(jax.vmap(lambda y: flow.log_prob(params, y)))(events)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


def test_quadrature_draws_from_the_conditional_it_describes():
    # a Gaussian whose conditional is known, seen through its density alone
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])
    law = scipy.stats.multivariate_normal(np.array([0.2, -0.3]), covariance)
    events = law.rvs(500, random_state=0)
    observed = truth.masks(np.random.default_rng(1), 500, 2)
    rng = np.random.default_rng(2)
    by_grid = truth.quadrature(law.logpdf)(rng, events, observed)
    by_algebra = truth.schur(law.mean, covariance)(rng, events, observed)
    np.testing.assert_allclose(by_grid.mean, by_algebra.mean, atol=1e-6)
    np.testing.assert_allclose(by_grid.deviation, by_algebra.deviation, rtol=1e-6)
    np.testing.assert_allclose(by_grid.log_evidence, by_algebra.log_evidence, atol=1e-6)
    for exact in (by_grid, by_algebra):
        scores = ((exact.draws - exact.mean[:, None]) / exact.deviation[:, None]).ravel()
        assert scipy.stats.kstest(scores, "norm").pvalue > 1e-3


@pytest.mark.parametrize(("shift", "alike"), [(0.0, True), (0.4, False)])
def test_the_classifier_tells_samples_apart_only_where_they_differ(shift, alike):
    rng = np.random.default_rng(0)
    ours, exact = rng.standard_normal((2, 2000, 2))
    share, error = truth.accuracy(ours + shift, exact, np.arange(2000) // 8, rng)
    assert (abs(share - 0.5) < truth.STD_ERRORS * error) == alike
    # of order one over the square root of the number of points, and wider: votes depend on each other
    assert 0.5 / 4000**0.5 < error < 3.0 / 4000**0.5


def test_repeated_draws_are_kept_once():
    entries = np.array([[1.0, 1.0, 2.0, 1.0], [3.0, 4.0, 4.0, 4.0]])[..., None]
    np.testing.assert_array_equal(truth.once(entries), [[True, False, True, True], [True, True, False, False]])


def test_weighted_ranks_are_uniform_for_the_right_weights_alone():
    rng = np.random.default_rng(0)
    # q = N(0, 1.5^2) for p = N(0, 1)
    samples = 1.5 * rng.standard_normal((2000, 200))
    log_weights = -0.5 * samples**2 * (1.0 - 1.0 / 1.5**2)
    right = truth.ranks(samples, log_weights, rng.standard_normal(2000), rng)
    wrong = truth.ranks(samples, np.zeros_like(samples), rng.standard_normal(2000), rng)
    assert scipy.stats.kstest(right, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(wrong, "uniform").pvalue < 1e-6
    # an unsolved draw has no weight: its value does not matter
    samples[:, 0], log_weights[:, 0] = np.nan, -np.inf
    assert np.isfinite(truth.ranks(samples, log_weights, np.zeros(2000), rng)).all()


def test_calibrations_are_judged_by_their_number():
    rows = [{"sbc_p": 0.004}, {"sbc_p": 0.006}, {"accuracy": 0.5, "passed": True}]
    assert [row["passed"] for row in truth.judged(rows)] == [False, True, True]


def test_a_row_says_how_a_case_fared():
    # one small case, put through all of it
    case = next(truth.cases(64, 0, ["nice"]))
    two_sample, calibration = truth.rows_of(case)
    for row in (two_sample, calibration):
        assert (row["family"], row["case"], row["rows"], row["converged_fraction"]) == ("nice", "affine", 64, 1.0)
        assert row["ess_fraction"] > 0.999
        assert row["mass_reached"] == pytest.approx(1.0, abs=1e-3)
    assert two_sample["draws"] == 64 * truth.TAKEN
    assert two_sample["passed"]
    assert calibration["sbc_p"] > 1e-3
