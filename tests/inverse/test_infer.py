"""One call, one result: what every method returns."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks.known_flows import gaussian_of, matrix_flow, measured_of
from jaxflows import adapters, flows, inverse, measurements, observe
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.inverse import infer as table
from jaxflows.inverse import noise
from jaxflows.inverse.infer import infer
from jaxflows.inverse.langevin_method import _adjusted_chains
from jaxflows.inverse.noisy_measurements import log_likelihood
from jaxflows.inverse.sparse_method import _analysis, _synthesis
from jaxflows.measurements import entries
from tests.inverse.problems import KEY, MATRIX, SIGMA, VALUES, fitted_gaussian, problem, reading

# every method of the table, its options small
SMALL = {
    "ambient": {"steps": 400, "num_draws": 32, "learning_rate": 1e-2},
    "amortised": {},
    "asim": {"steps": 20},
    "constraint": {},
    "csgm": {"steps": 600, "learning_rate": 0.05},
    "gaussian": {"distribution": fitted_gaussian()},
    "hmc": {"warm_up": 200, "steps": 20, "leapfrogs": 8},
    "langevin": {"steps": 300, "step_size": 0.02},
    "mala": {"warm_up": 200, "steps": 200},
    "map": {"steps": 400},
    "nuts": {"warm_up": 200, "steps": 20},
    "plmcmc": {"steps": 400, "sigma_a": 0.3, "sigma_p": 0.3},
    "pregenerator": {"steps": 400, "num_draws": 32, "learning_rate": 1e-2, "marginal_draws": 8},
    "sparse": {},
}
SAMPLERS = ("constraint", "gaussian", "hmc", "mala", "nuts")
POINTS = {"asim": 1, "csgm": 3, "map": 3, "sparse": 1}
# these do not look at the flow
FLOWLESS = ("gaussian", "sparse")


@functools.cache
def found(name):
    options = {"model": trained()} if name == "amortised" else SMALL[name]
    method = table.factory_of(name)(**options)
    return infer(KEY, *problem(), reading(name), method=method, num_samples=300)


@functools.cache
def trained():
    options = {"noise": noise.gaussian(SIGMA), "steps": 3, "batch_size": 8, "progress": False}
    return inverse.fit_amortised_pregenerator(KEY, *problem(), observe.linear(MATRIX), **options)[0]


GRID = np.linspace(-12.0, 12.0, 8001)


def quadrature(log_p, values):
    """Mean and standard deviation of values on the grid under a density known up to a constant."""
    chances = np.exp(np.asarray(log_p, float) - np.max(log_p))
    chances /= chances.sum()
    mean = chances @ values
    return mean, np.sqrt(chances @ (values - mean) ** 2)


def closed_form(name):
    if name == "plmcmc":
        return measured_of(*gaussian_of(*problem()), np.eye(3)[:1], 0.0, VALUES[:1])
    return measured_of(*gaussian_of(*problem()), MATRIX, SIGMA, VALUES)


def test_small_options_cover_the_table():
    assert set(SMALL) == set(table.METHODS)
    assert {"Inference", "NoisyMeasurement", "noise", "noisy_measurement"} <= set(inverse.__all__)
    for _, factory in table.METHODS.values():
        assert getattr(inverse, factory).__doc__


@pytest.mark.parametrize("name", SMALL)
def test_every_method_fills_the_one_result(name):
    result, count = found(name), POINTS.get(name, 300)
    assert result.method == name
    assert result.samples.shape == (count, 3)
    assert result.misfit.shape == result.log_weights.shape == (count,)
    assert np.all(np.isfinite(result.samples))
    assert np.all(np.isfinite(result.misfit))
    assert (result.evaluations == 0) == (name in FLOWLESS)
    assert result.seconds > 0
    assert all(note[-1] not in ".\n" for note in result.notes)
    if name != "plmcmc":
        measured = np.asarray(result.samples) @ MATRIX.T - VALUES
        np.testing.assert_allclose(result.misfit, np.sqrt(np.mean(measured**2, axis=1)), atol=1e-5)


@pytest.mark.parametrize("name", ["asim", "csgm", "langevin"])
def test_other_values_are_inferred_by_the_same_programs(caplog, name):
    # decoding is a loop here, and a loop that no program holds is compiled at every call
    flow = flows.residual(event_shape=(3,), blocks=2, hidden=4)
    params, method = flow.init(KEY), table.factory_of(name)(steps=3)

    def compiled(values):
        caplog.clear()
        measurement = inverse.noisy_measurement(observe.linear(MATRIX), values, noise=noise.gaussian(SIGMA))
        with jax.log_compiles():
            infer(KEY, flow, params, measurement, method=method, num_samples=2)
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]

    assert compiled(VALUES)
    assert compiled(-VALUES) == []


@pytest.mark.parametrize("name", [*SAMPLERS, "plmcmc"])
def test_samplers_draw_from_the_posterior(name):
    centre, spread, _ = closed_form(name)
    samples = np.asarray(found(name).samples, float)
    keep = slice(1, None) if name == "plmcmc" else slice(None)
    factor = np.linalg.cholesky(spread[keep, keep])
    standard = np.linalg.solve(factor, (samples - centre)[:, keep].T)
    size, count = standard.shape
    assert np.all(np.abs(standard.mean(axis=1)) < 5 / np.sqrt(count))
    products = standard @ standard.T / count - np.eye(size)
    assert np.all(np.abs(products) < 5 * np.sqrt((1 + np.eye(size)) / count))


def test_exact_conditioning_weighs_all_draws_of_an_affine_flow_by_the_evidence():
    result, (_, _, evidence) = found("constraint"), closed_form("constraint")
    np.testing.assert_allclose(result.log_weights, evidence, atol=1e-4)
    np.testing.assert_allclose(result.bound, evidence, atol=1e-4)


def test_the_gaussian_conditions_exactly_without_noise_and_tells_its_evidence():
    matrix, values = MATRIX[:1], VALUES[:1]
    centre, spread, evidence = measured_of(*gaussian_of(*problem()), matrix, 0.0, values)
    reading = inverse.noisy_measurement(observe.linear(matrix), values)
    result = infer(KEY, *problem(), reading, method=inverse.gaussian(fitted_gaussian()), num_samples=4000)
    samples = np.asarray(result.samples, float)
    np.testing.assert_allclose(samples @ matrix.T, np.tile(values, (4000, 1)), atol=1e-5)
    np.testing.assert_allclose(result.misfit, 0.0, atol=1e-5)
    deviation = np.sqrt(np.diag(spread))
    assert np.all(np.abs(samples.mean(axis=0) - centre) < 5 * deviation / np.sqrt(4000))
    products = np.outer(deviation, deviation)
    assert np.all(np.abs(np.cov(samples.T) - spread) < 5 * np.sqrt(2 / 4000) * products)
    assert float(result.notes[0].split()[-2]) == pytest.approx(evidence, rel=1e-5)
    assert np.isnan(result.bound)


@pytest.mark.parametrize("basis", ["dct", "haar", "db2"])
def test_sparse_recovery_is_exact_from_random_projections(basis):
    flow, params = matrix_flow((8, 8), seed=0)
    coefficients = np.zeros((1, 8, 8))
    coefficients[0, [0, 1, 3, 6], [0, 2, 1, 5]] = [3.0, -2.0, 1.5, 1.0]
    event = _synthesis(basis, coefficients)
    np.testing.assert_allclose(_analysis(basis, event), coefficients, atol=1e-12)
    np.testing.assert_allclose(np.sum(event**2), np.sum(coefficients**2))
    operator = measurements.gaussian((8, 8), 32)
    reading = inverse.noisy_measurement(operator, operator.measure(jnp.asarray(event[0], jnp.float32)))
    result = infer(KEY, flow, params, reading, method=inverse.sparse(basis=basis, penalty=1e-5))
    np.testing.assert_allclose(result.samples[0], event[0], atol=2e-3)
    # half the measurements that there are unknowns: the solution of least norm is nowhere near
    assert np.max(np.abs(operator.pseudo_inverse(reading.values) - event[0])) > 0.1


def test_sparse_recovery_weighs_measurements_by_their_noise_and_tells_of_steps_that_ran_out():
    result = infer(KEY, *problem(), reading("sparse"), method=inverse.sparse(steps=1))
    assert "had not converged after 1 sweeps" in result.notes[1]
    # one entry read in two ways that disagree: without the weights it would be near 1.5
    rows = np.array([[1.0, 0.0, 0.0], [1.0, 1e-3, 0.0]])
    disagreeing = inverse.noisy_measurement(observe.linear(rows), [1.0, 2.0], noise=noise.gaussian([0.1, 10.0]))
    result = infer(KEY, *problem(), disagreeing, method=inverse.sparse(penalty=1e-2))
    assert abs(float(result.samples[0] @ rows[0]) - 1.0) < 0.05
    assert len(result.notes) == 1


@pytest.mark.parametrize("method", [inverse.constraint(), inverse.gaussian(fitted_gaussian())], ids=lambda m: m.name)
def test_entries_without_noise_come_back_bit_for_bit(method):
    observed, values = np.array([True, False, True]), np.array([0.3, -1.2], np.float32)
    reading = inverse.noisy_measurement(entries(observed), values)
    result = infer(KEY, *problem(), reading, method=method, num_samples=3)
    np.testing.assert_array_equal(result.samples[:, observed], np.tile(values, (3, 1)))
    if method.name == "gaussian":
        np.testing.assert_allclose(result.misfit, 0.0, atol=1e-6)
        return
    np.testing.assert_array_equal(result.misfit, 0.0)
    _, _, evidence = measured_of(*gaussian_of(*problem()), np.eye(3)[observed], 0.0, values)
    np.testing.assert_allclose(result.log_weights, evidence, atol=1e-4)


def test_antithetic_draws_of_a_linear_measurement_have_the_exact_mean():
    centre, _, _ = closed_form("constraint")
    result = infer(KEY, *problem(), reading("constraint"), method=inverse.constraint(antithetic=True), num_samples=4)
    np.testing.assert_allclose(np.mean(result.samples, axis=0), centre, atol=1e-4)


def test_samples_without_weights_are_the_same_count_alike_and_have_no_bound():
    weighed = infer(KEY, *problem(), reading("constraint"), num_samples=4)
    result = infer(KEY, *problem(), reading("constraint"), method=inverse.constraint(weighted=False), num_samples=4)
    np.testing.assert_allclose(result.samples, weighed.samples, atol=1e-5)
    np.testing.assert_array_equal(result.log_weights, 0.0)
    assert np.isnan(result.bound)


@pytest.mark.parametrize("name", ["ambient", "pregenerator"])
def test_variational_bounds_stay_below_the_evidence_and_their_weights_reach_it(name):
    result, (_, _, evidence) = found(name), closed_form(name)
    weights = np.asarray(result.log_weights, float)
    error = weights.std() / np.sqrt(len(weights))
    assert result.bound < evidence + 5 * error
    assert result.bound > evidence - 0.2
    ratios = np.exp(weights - evidence)
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(len(ratios))
    np.testing.assert_allclose(result.bound, weights.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["ambient", "amortised", "pregenerator"])
def test_the_fitted_posterior_is_the_one_that_was_drawn_from(name):
    (flow, params), result = problem(), found(name)
    log_joint = jax.vmap(lambda y: flow.log_prob(params, y) + log_likelihood(reading(name), 1.0, y))(result.samples)
    log_q = jax.vmap(result.posterior.log_prob)(result.samples)
    np.testing.assert_allclose(log_joint - log_q, result.log_weights, atol=1e-3)
    more = np.asarray(result.posterior.sample(jax.random.key(1), 300))
    error = np.sqrt((more.var(axis=0) + np.var(result.samples, axis=0)) / 300)
    assert np.all(np.abs(more.mean(axis=0) - np.mean(result.samples, axis=0)) < 5 * error)
    assert found("mala").posterior is None


def test_the_marginal_bound_stands_beside_the_joint_one():
    result, (_, _, evidence) = found("pregenerator"), closed_form("pregenerator")
    gain = np.asarray(result.marginal.log_weights - result.log_weights, float)
    assert gain.mean() > -5 * gain.std() / np.sqrt(300)
    assert result.bound < result.marginal.bound < evidence + 5 * np.std(result.marginal.log_weights) / np.sqrt(300)
    assert found("ambient").marginal is None


def test_point_estimates_are_those_of_their_objectives():
    _, params = problem()
    design = MATRIX @ np.asarray(params["matrix"], float)
    gap = VALUES - MATRIX @ np.asarray(params["mean"], float)

    def event(z):
        return np.asarray(params["mean"]) + np.asarray(params["matrix"]) @ z

    # without a prior, from zero: the least-squares latent of least norm
    np.testing.assert_allclose(found("asim").samples[0], event(np.linalg.pinv(design) @ gap), atol=2e-3)
    ridge = np.linalg.solve(design.T @ design / 2 + 0.1 * np.eye(3), design.T @ gap / 2)
    np.testing.assert_allclose(found("csgm").samples, np.tile(event(ridge), (3, 1)), atol=2e-3)
    np.testing.assert_allclose(found("map").samples, np.tile(closed_form("map")[0], (3, 1)), atol=2e-3)


def test_unadjusted_langevin_has_the_bias_of_its_step_and_an_annealed_one_ends_unheated():
    flow, params = _identity()
    reading = inverse.noisy_measurement(entries(np.array([True])), [0.0], noise=noise.gaussian(1.0))
    # precision 2: at step eta the stationary variance is 1 / (2 (1 - eta)), not 1/2
    for options in ({}, {"temperature": 4.0, "levels": 2}):
        method = inverse.langevin(steps=60, step_size=0.25, **options)
        samples = np.asarray(infer(KEY, flow, params, reading, method=method, num_samples=4000).samples, float)
        variance = 2 / 3
        assert abs(np.mean(samples**2) - variance) < 5 * np.sqrt(2 / 4000) * variance
        assert abs(np.mean(samples)) < 5 * np.sqrt(variance / 4000)


def _identity():
    flow = flows.flow_of((1,), actnorm(over="event"))
    return flow, flow.init(KEY)


def test_pl_mcmc_keeps_the_log_determinant_on_a_bent_flow():
    # the spread of the observed entry, and so the volume, depends on the hidden one
    flow, params = adapters.from_functions(
        event_shape=(2,),
        encode=lambda p, y: jnp.stack([y[0] * jnp.exp(-jnp.tanh(y[1])), y[1]]),
        decode=lambda p, x: jnp.stack([x[0] * jnp.exp(jnp.tanh(x[1])), x[1]]),
        log_det=lambda p, y: -jnp.tanh(y[1]),
    )
    reading = inverse.noisy_measurement(entries(np.array([True, False])), [0.4])
    points = jnp.stack([jnp.full(GRID.shape, 0.4), jnp.asarray(GRID)], axis=1)
    mean, deviation = quadrature(jax.jit(jax.vmap(lambda y: flow.log_prob(params, y)))(points), GRID)
    method = inverse.plmcmc(steps=400, sigma_a=0.3, sigma_p=0.3)
    result = infer(KEY, flow, params, reading, method=method, num_samples=1000)
    hidden = np.asarray(result.samples[:, 1], float)
    assert np.all(np.asarray(result.samples[:, 0]) == np.float32(0.4))
    assert np.max(result.misfit) > 0.1
    assert abs(hidden.mean() - mean) < 5 * deviation / np.sqrt(1000)
    assert "accepted" in result.notes[0]


def test_a_censored_reading_is_inferred_as_the_tail_it_stands_for():
    flow, params = _identity()
    reading = inverse.noisy_measurement(entries(np.array([True])), [1.0], noise=noise.censored(-5.0, 1.0, 0.5))
    result = infer(KEY, flow, params, reading, method=inverse.mala(warm_up=200, steps=200), num_samples=1000)
    mean, deviation = quadrature(-0.5 * GRID**2 + scipy.stats.norm.logcdf((GRID - 1.0) / 0.5), GRID)
    assert abs(float(result.samples.mean()) - mean) < 5 * deviation / np.sqrt(1000)


def test_any_differentiable_function_can_be_measured():
    flow, params = _identity()
    reading = inverse.noisy_measurement(lambda y: y**2, [1.0], noise=noise.laplace(0.2))
    result = infer(KEY, flow, params, reading, method=inverse.mala(warm_up=200, steps=200), num_samples=500)
    samples = np.asarray(result.samples[:, 0], float)
    # two modes, at plus and minus one, of equal weight
    assert abs(np.mean(samples > 0) - 0.5) < 5 * 0.5 / np.sqrt(500)
    mean, deviation = quadrature(-0.5 * GRID**2 - np.abs(GRID**2 - 1.0) / 0.2, np.abs(GRID))
    assert abs(np.mean(np.abs(samples)) - mean) < 5 * deviation / np.sqrt(500)


@pytest.mark.long
def test_a_residual_family_stays_invertible_while_it_is_fitted():
    flow, params = problem()
    family = flows.residual(event_shape=(3,), blocks=1, hidden=4)
    method = inverse.pregenerator(family=family, steps=3, num_draws=2)
    result = infer(KEY, flow, params, reading("pregenerator"), method=method, num_samples=2)
    assert np.all(np.isfinite(result.samples))
    method = inverse.pregenerator(family=flows.residual(event_shape=(2,), blocks=1, hidden=4))
    with pytest.raises(ValueError, match=r"expected a family of flows over arrays of shape \(3,\); got one over \(2,\)"):
        infer(KEY, flow, params, reading("pregenerator"), method=method)


def test_the_same_problem_with_other_values_compiles_nothing_new():
    flow, params = problem()
    method = inverse.mala(warm_up=3, steps=3)
    sizes = []
    for value in (0.1, 0.2):
        b = inverse.noisy_measurement(observe.linear(MATRIX), VALUES + value, noise=noise.gaussian(SIGMA + value))
        infer(KEY, flow, params, b, method=method, num_samples=2)
        sizes.append(_adjusted_chains._cache_size())
    assert sizes[0] == sizes[1]
