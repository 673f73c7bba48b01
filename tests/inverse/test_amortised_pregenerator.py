"""Trained once, asked about masks it has not seen, where the posterior is known."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of, matrix_flow, measured_of
from jaxflows import flows, inverse, load_amortised, measurements, observe, persistence, save_amortised
from jaxflows.inverse import noise
from jaxflows.inverse.infer import infer
from jaxflows.observation import LinearMeasurement

KEY = jax.random.key(0)
SIZE, SIGMA = 5, 0.3
FLOW, PARAMS = matrix_flow((SIZE,), seed=1, spread=(0.3, 1.5))
MOMENTS = gaussian_of(FLOW, PARAMS)
EVENT = np.random.default_rng(0).multivariate_normal(*MOMENTS)
ALL = np.array([mask for mask in itertools.product([False, True], repeat=SIZE) if any(mask)])
UNSEEN = ALL[::10]


def fitted(measured, **options):
    context = SIZE if isinstance(measured, LinearMeasurement) else 2 * SIZE
    family = flows.realnvp(event_shape=(SIZE,), layers=4, hidden=32, blocks=1, context=context)
    settings = {"noise": noise.gaussian(SIGMA), "family": family, "steps": 700, "batch_size": 128}
    settings |= {"learning_rate": 1e-2, "progress": False} | options
    return inverse.fit_amortised_pregenerator(KEY, FLOW, PARAMS, measured, **settings)


def kl(one, other):
    """KL divergence of two Gaussians, (mean, covariance) each."""
    gap, ratio = other[0] - one[0], np.linalg.solve(other[1], one[1])
    return 0.5 * (np.trace(ratio) - len(gap) + gap @ np.linalg.solve(other[1], gap) - np.linalg.slogdet(ratio)[1])


@pytest.fixture(scope="module")
def model():
    seen = np.array([mask for mask in ALL if not (mask == UNSEEN).all(axis=1).any()])
    return fitted(seen)[0]


def asked(model, operator, matrix, seed=1, count=400):
    """The result, and the posterior's mean, covariance and log-evidence."""
    rng = np.random.default_rng(seed)
    values = matrix @ EVENT + SIGMA * rng.standard_normal(len(matrix))
    reading = inverse.noisy_measurement(operator, values, noise=noise.gaussian(SIGMA))
    found = infer(KEY, FLOW, PARAMS, reading, method=inverse.amortised(model), num_samples=count)
    return found, measured_of(*MOMENTS, matrix, SIGMA, values)


@pytest.mark.long
@pytest.mark.parametrize("observed", UNSEEN, ids=lambda mask: "".join("01"[int(seen)] for seen in mask))
def test_it_is_near_the_posterior_of_masks_it_has_not_seen(model, observed):
    found, (mean, covariance, evidence) = asked(model, measurements.entries(observed), np.eye(SIZE)[observed])
    weights = np.asarray(found.log_weights, float)
    # the bound falls short of the evidence by KL(q || p), and the weights make up for it
    error = weights.std() / np.sqrt(len(weights))
    assert -5 * error < evidence - weights.mean() < 0.05 * kl(MOMENTS, (mean, covariance)) + 5 * error
    ratios = np.exp(weights - evidence)
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(len(ratios))
    standard = (np.asarray(found.samples, float) - mean) / np.sqrt(np.diag(covariance))
    assert np.all(np.abs(standard.mean(axis=0)) < 0.4)
    assert np.all(np.abs(standard.std(axis=0) - 1.0) < 0.5)


def test_nothing_is_fitted_and_the_posterior_gives_the_weights(model):
    found, _ = asked(model, measurements.entries(UNSEEN[1]), np.eye(SIZE)[UNSEEN[1]], count=8)
    assert found.method == "amortised"
    assert found.evaluations == 8 * (FLOW.bijector.blocks + model.family.bijector.blocks)
    log_q = jax.vmap(found.posterior.log_prob)(found.samples)
    assert np.all(np.isfinite(log_q))
    assert found.posterior.sample(KEY, 3).shape == (3, SIZE)


def test_one_operator_and_rows_of_data(tmp_path):
    operator = measurements.gaussian((SIZE,), 2)
    matrix = np.asarray(jax.vmap(operator.measure)(np.eye(SIZE, dtype=np.float32))).T
    rows = np.random.default_rng(2).multivariate_normal(*MOMENTS, size=4000)
    model, losses = fitted(operator, data=rows, steps=300)
    assert np.mean(losses[-100:]) < np.mean(losses[:10])
    found, (_, _, evidence) = asked(model, operator, matrix)
    assert evidence - found.bound < 0.3
    with pytest.raises(ValueError, match="expected metadata without the entry 'amortised'"):
        save_amortised(tmp_path / "model.safetensors", model, metadata={"amortised": 1})
    # saved and loaded it answers the same, given its operator
    save_amortised(tmp_path / "model.safetensors", model, metadata={"note": "two"})
    again, metadata = load_amortised(tmp_path / "model.safetensors", operator)
    assert metadata == {"note": "two"}
    np.testing.assert_array_equal(asked(again, operator, matrix)[0].samples, found.samples)
    other = measurements.gaussian((SIZE,), 2, seed=1)
    for given, message in ((None, "expected the operator of the training; got none"), (other, "got another")):
        with pytest.raises(ValueError, match=message):
            load_amortised(tmp_path / "model.safetensors", given)
    persistence.save(tmp_path / "flow.safetensors", model.family, model.theta)
    with pytest.raises(persistence.ModelFileError, match="holds no pre-generator"):
        load_amortised(tmp_path / "flow.safetensors")
    reading = inverse.noisy_measurement(other, [0.0, 0.0], noise=noise.gaussian(SIGMA))
    with pytest.raises(ValueError, match="expected the linear measurement of the training; got another"):
        infer(KEY, FLOW, PARAMS, reading, method=inverse.amortised(model))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {"noise": noise.gaussian(0.1)}, r"expected Gaussian noise of sigma 0.3, as in training; got 0.1"),
        (dict, "expected Gaussian noise of sigma 0.3, as in training; got none"),
        (lambda: {"noise": noise.laplace(0.3)}, "expected a measurement without noise or with Gaussian noise"),
    ],
)
def test_another_kind_of_measurement_is_refused(model, make, message):
    reading = inverse.noisy_measurement(measurements.entries(UNSEEN[1]), EVENT[UNSEEN[1]], **make())
    with pytest.raises(ValueError, match=message):
        infer(KEY, FLOW, PARAMS, reading, method=inverse.amortised(model))
    mixed = inverse.noisy_measurement(observe.linear(np.ones((1, SIZE))), [0.0], noise=noise.gaussian(SIGMA))
    with pytest.raises(ValueError, match="expected entries of the event, as in training; got another measurement"):
        infer(KEY, FLOW, PARAMS, mixed, method=inverse.amortised(model))


@pytest.mark.parametrize(
    ("measured", "options", "message"),
    [
        (ALL.astype(int), {}, r"boolean masks of shape \(M, 5\); got int64 of shape \(31, 5\)"),
        (np.zeros((2, SIZE), bool), {}, "expected at least one observed entry a mask; got none in mask 0"),
        (measurements.gaussian((3,), 1), {}, r"expected a measurement of events of shape \(5,\); got one of \(3,\)"),
        (ALL, {"noise": noise.laplace(0.1)}, "expected no noise, or Gaussian noise; got another noise model"),
        (ALL, {"noise": noise.gaussian([0.1] * SIZE)}, "expected one sigma, or one a measurement of an operator; got 5"),
        (ALL, {"data": np.zeros((3, 4))}, r"expected finite rows of events of shape \(5,\); got an array of shape \(3, 4\)"),
        (ALL, {"steps": 0}, "expected steps > 0; got 0"),
        (
            ALL, {"family": flows.realnvp(event_shape=(SIZE,), layers=2, hidden=4)},
            "expected a conditional family with a context of 10 entries; got None",
        ),
        (
            ALL, {"family": flows.realnvp(event_shape=(3,), layers=2, hidden=4, context=10)},
            r"expected a family of flows over arrays of shape \(5,\); got one over \(3,\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(measured, options, message):
    with pytest.raises(ValueError, match=message):
        fitted(measured, **options)
