"""The benchmark of Appendix D: what it counts, on a flow of four entries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.implicit_mnist import solve_rows
from jaxflows import flows


def test_solves_are_counted_and_what_the_sweep_leaves_goes_to_newton(random_params):
    flow = flows.implicit(event_shape=(4,), blocks=1, hidden=4)
    params = random_params(flow)
    observed = np.array([[True, False, True, False], [False, True, False, False]])
    events = np.full((2, 4), 0.5, np.float32)
    x_hidden = jnp.where(observed[:, None], 0.0, jax.random.normal(jax.random.key(0), (2, 3, 4)))
    row = solve_rows("prior", flow, params, observed, events, x_hidden)
    assert row["problems"] == 6
    assert row["fallback_fraction"] == 0.0
    assert row["converged_fraction"] == 1.0
    assert row["newton_steps_max"] == 0
    assert row["block_evaluations_median"] > 0
    # an observed NaN can be solved by nothing: all three of its problems are handed on, and said to have failed
    events[0, 0] = np.nan
    row = solve_rows("prior", flow, params, observed, events, x_hidden)
    assert row["fallback_fraction"] == pytest.approx(0.5)
    assert row["converged_fraction"] == pytest.approx(0.5)
