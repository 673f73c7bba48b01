"""What was read: everything that cannot be a reading is refused before any work."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import measurements, observe
from jaxflows import nonlinear_measurements as nonlinear
from jaxflows.inverse import noise
from jaxflows.inverse.noisy_measurements import log_likelihood, misfit, noisy_measurement

TWO = observe.linear(np.eye(4)[:2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noisy_measurement(TWO, np.zeros(3)), "expected 2 measurements, as many as the operator makes; got 3"),
        (lambda: noisy_measurement(TWO, np.zeros((1, 2))), r"expected real measurements of shape \(m,\); got float64 of shape"),
        (lambda: noisy_measurement(TWO, np.zeros(2, complex)), "expected real measurements"),
        (lambda: noisy_measurement(TWO, [0.0, np.nan]), "expected finite measurements; got nan at position 1"),
        (lambda: noisy_measurement(TWO, [0.0, 1.0], noise=noise.gaussian([0.1] * 3)), "expected one sigma, or 2 of them"),
        (lambda: noisy_measurement(TWO, [0.5, 1.0], noise=noise.poisson()), "expected measurements that the noise model can"),
        (lambda: noisy_measurement(TWO, [0.5, 2.0], noise=noise.censored(0, 1, 0.1)), "expected measurements that the noise"),
        (lambda: observe.linear(np.ones((5, 4))), "expected at most 4 measurements of an event of size 4; got 5"),
        (lambda: observe.linear(np.ones((2, 4))), "expected an operator of full row rank 2; got rank 1"),
        (lambda: observe.linear(lambda y: y**2, (4,)), "expected a linear operator"),
        (lambda: measurements.entries(np.zeros(4, bool)), "expected at least one observed entry; got none"),
        (lambda: measurements.entries(np.zeros(4)), "expected a boolean mask"),
        (lambda: nonlinear.clipped(TWO, 1.0, 0.0), "expected lower < upper; got 1.0 and 0.0"),
        (lambda: nonlinear.fourier_magnitude((4,)), r"expected events of shape \(height, width\)"),
    ],
)
def test_what_cannot_be_a_reading_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_exact_reading_is_smoothed_and_a_noisy_one_is_not():
    y = jnp.array([1.0, 2.0, 3.0, 4.0])
    exact = noisy_measurement(TWO, [1.5, 2.0])
    noisy = noisy_measurement(TWO, [1.5, 2.0], noise=noise.gaussian(0.5))
    meant = -0.5 - 2 * np.log(0.5) - np.log(2 * np.pi)
    np.testing.assert_allclose(log_likelihood(exact, 0.5, y), meant, rtol=1e-6)
    np.testing.assert_allclose(log_likelihood(noisy, 9.0, y), meant, rtol=1e-6)
    np.testing.assert_allclose(misfit(exact, y), 0.5 / np.sqrt(2), rtol=1e-6)


def test_non_linear_measurements_measure_what_they_say():
    y = np.random.default_rng(0).standard_normal((4, 5, 2)).astype(np.float32)
    operator = measurements.gaussian((4, 5, 2), 3)
    np.testing.assert_allclose(nonlinear.magnitude(operator)(jnp.asarray(y)), np.abs(operator.measure(y)), atol=1e-5)
    clipped = nonlinear.clipped(operator, -0.1, 0.1)(jnp.asarray(y))
    np.testing.assert_allclose(clipped, np.clip(operator.measure(y), -0.1, 0.1), atol=1e-6)
    for shape in ((4, 5, 2), (3, 4), (4, 4)):
        event = y[: shape[0], : shape[1]] if len(shape) == 3 else np.resize(y, shape)
        seen = np.asarray(nonlinear.fourier_magnitude(shape)(jnp.asarray(event)))
        spectrum = np.abs(np.fft.fft2(event, axes=(0, 1), norm="ortho"))
        # every frequency but its own negative stands once for two
        height, width = shape[:2]
        own = (1 + (height % 2 == 0)) * (1 + (width % 2 == 0))
        assert seen.shape == ((height * width + own) // 2 * int(np.prod(shape[2:])),)
        assert np.all(np.min(np.abs(np.sort(spectrum.reshape(-1))[:, None] - seen), axis=1) < 1e-5)
