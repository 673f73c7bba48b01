"""The marginal bound: between the joint one and the truth, in closed form where all is Gaussian."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of, matrix_flow, measured_of
from jaxflows import flows, inverse, observe
from jaxflows.inverse import noise
from jaxflows.inverse.infer import infer
from jaxflows.inverse.marginal_bound import marginal_log_weights

SIZE, DRAWS = 4, 2000
MATRIX = np.array([[1.0, -0.5, 0.3, 0.0], [0.2, 0.8, -1.0, 0.5]])
VALUES, SIGMA = np.array([0.7, -0.4]), np.array([0.5, 0.3])


def kl(one, other):
    """KL divergence of two Gaussians, (mean, covariance) each."""
    gap = other[0] - one[0]
    ratio = np.linalg.solve(other[1], one[1])
    quadratic = gap @ np.linalg.solve(other[1], gap)
    return 0.5 * (np.trace(ratio) - len(gap) + quadratic - np.linalg.slogdet(ratio)[1])


def free_part(gaussian):
    """Of what MATRIX leaves free."""
    free = np.linalg.svd(MATRIX)[2][2:]
    return free @ gaussian[0], free @ gaussian[1] @ free.T


@pytest.fixture(scope="module")
def problem():
    flow, params = matrix_flow((SIZE,), seed=0)
    posterior, theta = matrix_flow((SIZE,), seed=3, spread=(0.5, 0.8))
    reading = inverse.noisy_measurement(observe.linear(MATRIX), VALUES, noise=noise.gaussian(SIGMA))
    *truth, evidence = measured_of(*gaussian_of(flow, params), MATRIX, SIGMA, VALUES)
    q = gaussian_of(posterior, theta)
    events = posterior.sample(jax.random.key(1), theta, DRAWS)
    weights = {
        inner: np.asarray(
            marginal_log_weights(
                flow, posterior, inner, jax.random.key(2), params, theta, reading, 1.0, events
            )[0], float,
        )
        for inner in (1, 128)
    }  # fmt: skip
    joint, marginal = evidence - kl(q, truth), evidence - kl(free_part(q), free_part(truth))
    return weights, joint, marginal, evidence


def test_it_lies_between_the_joint_and_the_marginal_bound_and_reaches_the_latter(problem):
    weights, joint, marginal, evidence = problem
    assert joint + 0.5 < marginal < evidence - 0.1
    few, many = (weights[inner] for inner in (1, 128))
    error = {name: values.std() / np.sqrt(DRAWS) for name, values in (("few", few), ("many", many))}
    assert joint + 5 * error["few"] < few.mean() < marginal - 5 * error["few"]
    gain = many - few
    assert gain.mean() > 5 * gain.std() / np.sqrt(DRAWS)
    assert abs(many.mean() - marginal) < 5 * error["many"] + 0.02


def test_its_weights_have_the_evidence_for_a_mean(problem):
    weights, _, _, evidence = problem
    ratios = np.exp(weights[128] - evidence)
    assert abs(ratios.mean() - 1.0) < 5 * ratios.std() / np.sqrt(DRAWS)


def test_what_has_no_marginal_bound_says_so():
    flow = flows.realnvp(event_shape=(2,), layers=2, hidden=4, blocks=1)
    method = inverse.pregenerator(marginal_draws=4)
    for reading, message in (
        (inverse.noisy_measurement(lambda y: y[:1] ** 2, [1.0]), "expected a linear measurement for a marginal bound"),
        (inverse.noisy_measurement(observe.linear(np.eye(2)), [1.0, 0.0]), "expected fewer than 2 measurements"),
    ):
        with pytest.raises(ValueError, match=message):
            infer(jax.random.key(0), flow, flow.init(jax.random.key(0)), reading, method=method)
    with pytest.raises(ValueError, match="expected marginal_draws >= 0; got -1"):
        inverse.ambient(marginal_draws=-1)
