"""Named measurements: what each measures, that it is of full rank, and what is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import measurements

SHAPE = (4, 6, 3)
MADE = {
    "gaussian": (measurements.gaussian(SHAPE, 20), 20),
    "average_pooling": (measurements.average_pooling(SHAPE, 2), 18),
    "grey_scale": (measurements.grey_scale(SHAPE), 24),
    "cosine": (measurements.cosine(SHAPE, 5), 15),
    "cosine, flat": (measurements.cosine((4, 6), 24), 24),
    "fourier": (measurements.fourier(SHAPE, 0.5), None),
    "fourier, all": (measurements.fourier((4, 6), 1.0), 24),
    "fourier, odd": (measurements.fourier((3, 5), 1.0), 15),
    "blur": (measurements.blur(SHAPE, 1.5), None),
}


def event(made):
    return jnp.asarray(np.random.default_rng(0).standard_normal(made.observation.observed.shape), jnp.float32)


@pytest.mark.parametrize("name", MADE)
def test_the_pseudo_inverse_reproduces_the_measurements_and_projects(name):
    made, count = MADE[name]
    y = event(made)
    b = made.measure(y)
    assert count is None or b.shape == (count,)
    assert int(made.observation.observed.sum()) == b.size <= y.size
    known = made.pseudo_inverse(b)
    np.testing.assert_allclose(made.measure(known), b, atol=2e-5)
    np.testing.assert_allclose(made.observation.observed_part(y), known, atol=2e-4)
    np.testing.assert_allclose(made.observation.hidden_part(known), 0.0, atol=2e-4)


def test_each_measures_what_it_says():
    y = np.asarray(event(MADE["gaussian"][0]), np.float64)
    pooled = MADE["average_pooling"][0].measure(jnp.asarray(y)).reshape(2, 3, 3)
    np.testing.assert_allclose(pooled[1, 2], y[2:, 4:].mean((0, 1)), atol=1e-6)
    grey = MADE["grey_scale"][0].measure(jnp.asarray(y)).reshape(4, 6)
    np.testing.assert_allclose(grey, 0.2126 * y[..., 0] + 0.7152 * y[..., 1] + 0.0722 * y[..., 2], atol=1e-5)
    lowest = MADE["cosine"][0].measure(jnp.asarray(y)).reshape(5, 3)
    np.testing.assert_allclose(lowest[0], y.sum((0, 1)) / np.sqrt(24), atol=1e-5)
    np.testing.assert_allclose(
        lowest[1], np.einsum("ijc,j->c", y, np.cos(np.pi * (np.arange(6) + 0.5) / 6)) / np.sqrt(12), atol=1e-5
    )
    plane = y[..., 0]
    spectrum = np.asarray(MADE["fourier, all"][0].measure(jnp.asarray(plane, jnp.float32)))
    np.testing.assert_allclose(np.sum(spectrum**2), np.sum(plane**2), rtol=1e-5)
    np.testing.assert_allclose(spectrum[0], plane.mean() * np.sqrt(24), atol=1e-5)


def test_a_blur_keeps_the_mean_and_loses_high_frequencies():
    made = measurements.blur((8, 8), 2.0)
    flat = made.measure(jnp.ones((8, 8)))
    np.testing.assert_allclose(flat[0], 8.0, atol=1e-5)
    np.testing.assert_allclose(flat[1:], 0.0, atol=1e-5)
    assert made.measure(jnp.ones((8, 8))).size < 64
    assert measurements.blur((8, 8), 0.1).measure(jnp.ones((8, 8))).size == 64


BAD = {
    "too many": (lambda: measurements.gaussian((4,), 5), r"expected 1 <= count <= 4, the event's size; got 5"),
    "factor": (lambda: measurements.average_pooling((4, 6), 4), "expected a factor of at least 2 that divides 4 and 6; got 4"),
    "channels": (lambda: measurements.grey_scale((4, 4, 1)), r"expected events of shape \(height, width, 3\); got \(4, 4, 1\)"),
    "flat": (lambda: measurements.cosine((16,), 3), r"expected events of shape \(height, width\) or"),
    "frequencies": (lambda: measurements.cosine((2, 2), 5), "expected 1 <= count <= 4 frequencies; got 5"),
    "share": (lambda: measurements.fourier((4, 4), 0.0), "expected 0 < share <= 1; got 0.0"),
    "sigma": (lambda: measurements.blur((4, 4), 0.0), "expected sigma > 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_named(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
