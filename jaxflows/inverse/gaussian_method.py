"""The posterior of one Gaussian in place of the flow: what every method that uses a flow has to beat."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.inverse.method import Method, Outcome, refuse_unless_linear, unweighted
from jaxflows.inverse.noise_extension import operator_matrix
from jaxflows.inverse.noisy_measurements import NoisyMeasurement
from jaxflows.metrics.gaussian_baseline import Gaussian


def gaussian(distribution: Gaussian | None = None) -> Method:
    """Condition N(mu, C), the Gaussian of the training data, in closed form; the flow is not looked at.

        y | b ~ N( mu + K (b - A mu), C - K A C ),   K = C A^T (A C A^T + diag(sigma^2))^-1

    Draws are exact, by Matheron's rule: with y' ~ N(mu, C) and e ~ N(0, I), y' + K (b - A y' - sigma e). All count alike. The
    notes tell log p(b), which is that of the Gaussian, neither that of the flow nor a bound on it.

    Args:
        distribution: from `jaxflows.metrics.fit_gaussian`, `fit_gaussian_em` or `load_mnist_gaussian`, of the flow's events;
            there is none to begin with.

    Serves linear measurements, exact or with Gaussian noise. Cost: O(m^3 + m d^2 + S d^2), no block evaluations.
    """

    def refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
        if distribution is None:
            return (
                "expected the Gaussian of the training data, "
                "`inverse.gaussian(metrics.fit_gaussian(rows))`; got none, as a name alone brings none"
            )
        if distribution.event_shape != flow.event_shape:
            return f"expected a Gaussian of events of shape {flow.event_shape}; got one of {distribution.event_shape}"
        return refuse_unless_linear(measurement)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        del params
        assert distribution is not None
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        flat, log_evidence = _draw(rng, distribution, measurement, num_samples)
        events = jnp.asarray(flat.reshape(num_samples, *flow.event_shape), measurement.values.dtype)
        note = f"log p(b) of the Gaussian is {log_evidence:.6g} nats"
        outcome = unweighted(measurement, events, jnp.zeros((), jnp.int32), note)
        linear = measurement.linear
        if measurement.noise.log_prob is None and linear is not None:
            known = linear.pseudo_inverse(measurement.values)
            events = jax.vmap(lambda y: linear.observation.restore(y, known))(events)
        return outcome._replace(samples=events)

    return Method("gaussian", refuse, run)


def _draw(
    rng: np.random.Generator, distribution: Gaussian, measurement: NoisyMeasurement, count: int
) -> tuple[np.ndarray, float]:
    """``(events (count, d), log p(b))`` in float64."""
    assert measurement.linear is not None
    matrix = operator_matrix(measurement.linear).astype(float)
    m, d = matrix.shape
    values = np.asarray(measurement.values, float)
    noise = measurement.noise.sigma
    sigma = np.zeros(m) if noise is None else np.broadcast_to(np.asarray(noise, float), (m,))
    spread = matrix @ distribution.factor
    factor = np.linalg.cholesky(spread @ spread.T + np.diag(sigma**2))
    prior = distribution.mean + rng.standard_normal((count, d)) @ distribution.factor.T
    read = prior @ matrix.T + sigma * rng.standard_normal((count, m))
    # the last column is what was read less what was expected, for the density of b
    gaps = np.concatenate([values - read, [values - matrix @ distribution.mean]])
    white = np.linalg.solve(factor, gaps.T)
    moved = np.linalg.solve(factor.T, white[:, :-1])
    log_evidence = -0.5 * (white[:, -1] @ white[:, -1] + m * math.log(2 * math.pi)) - np.sum(np.log(np.diag(factor)))
    return prior + moved.T @ spread @ distribution.factor.T, float(log_evidence)
