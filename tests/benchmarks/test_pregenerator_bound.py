"""The order of the bounds is seen where it holds and where it does not."""

from __future__ import annotations

import numpy as np

from benchmarks.pregenerator_bound import TOGETHER, bounds_of


def test_lognormal_weights_are_bounded_in_order_and_too_low_an_evidence_is_not():
    # log w ~ N(-1/2, 1): E w = 1, so log p = 0, and E log w = -1/2
    weights = np.random.default_rng(0).standard_normal(200 * TOGETHER) - 0.5
    row = bounds_of(weights, 0.0)
    assert row["ordered"]
    assert abs(row["joint_bound"] + 0.5) < 5 * row["joint_std_error"]
    assert row["joint_bound"] < row["weighted_bound"] < 0.0
    assert not bounds_of(weights, -0.3)["ordered"]
