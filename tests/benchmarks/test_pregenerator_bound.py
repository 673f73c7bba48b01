"""The order of the bounds is seen where it holds and where it does not."""

from __future__ import annotations

import numpy as np

from benchmarks.pregenerator_bound import TOGETHER, bounds_of


def test_lognormal_weights_are_bounded_in_order_and_other_orders_are_seen():
    # log w_2 ~ N(-1/2, 1), and log w = log w_2 + N(-1/8, 1/4): E w = E w_2 = 1, so log p = 0
    rng = np.random.default_rng(0)
    marginal = rng.standard_normal(200 * TOGETHER) - 0.5
    joint = marginal + 0.5 * rng.standard_normal(200 * TOGETHER) - 0.125
    row = bounds_of(joint, marginal, 0.0)
    assert row["ordered"]
    assert abs(row["joint_bound"] + 0.625) < 5 * row["joint_std_error"]
    assert abs(row["marginal_bound"] + 0.5) < 5 * row["marginal_std_error"]
    assert abs(row["gain_of_the_marginal"] - 0.125) < 5 * row["gain_std_error"]
    assert row["gain_std_error"] < 0.5 * row["joint_std_error"]
    assert row["marginal_bound"] < row["weighted_bound"] < 0.0
    # an evidence below the weighted bound, and a marginal bound below the joint one
    assert not bounds_of(joint, marginal, -0.3)["ordered"]
    assert not bounds_of(marginal, joint, 0.0)["ordered"]
