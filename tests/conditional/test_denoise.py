"""Tweedie's formula: the known answer of an affine flow, shapes, and refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of, linear_flow
from jaxflows.conditional.denoise import denoise


def test_of_a_gaussian_it_is_the_conditional_mean_of_what_was_before_the_noise():
    flow, params = linear_flow(4, seed=1)
    mean, covariance = gaussian_of(flow, params)
    std = 0.5 * np.sqrt(np.linalg.eigvalsh(covariance)[0])
    events = np.asarray(jax.random.normal(jax.random.key(0), (3, 2, 4)))
    # y = t + e: E[t | y] = mean + (C - std^2 I) C^{-1} (y - mean)
    gain = (covariance - std**2 * np.eye(4)) @ np.linalg.inv(covariance)
    expected = mean + (events - mean) @ gain.T
    found = denoise(flow, params, events, std)
    assert found.shape == events.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # row by row, whatever the leading axes
    np.testing.assert_allclose(denoise(flow, params, events[0, 0], std), found[0, 0], atol=1e-6)
    np.testing.assert_array_equal(denoise(flow, params, events, 0.0), events)
    assert denoise(flow, params, events[:0], std).shape == (0, 2, 4)


@pytest.mark.parametrize(
    ("events", "std", "words"),
    [
        (np.zeros((2, 3)), 0.1, r"expected events of shape \(\.\.\., 4\); got \(2, 3\)"),
        (np.zeros((2, 4), int), 0.1, "floating dtype; got int64"),
        (np.zeros((2, 4)), -0.1, "finite std >= 0; got -0.1"),
        (np.zeros((2, 4)), np.nan, "finite std >= 0; got nan"),
    ],
)
def test_what_cannot_be_denoised_is_refused(events, std, words):
    flow, params = linear_flow(4, seed=1)
    with pytest.raises(ValueError, match=words):
        denoise(flow, params, events, std)
