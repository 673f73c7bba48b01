"""Flows that begin with a map of each entry: their two parts, and which flows have them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxflows import flows
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.spline import elementwise_spline
from jaxflows.flows.entrywise import behind_entrywise
from jaxflows.flows.flow import flow_of

SHAPE = (8, 8, 1)
FLOW = flows.whitened_image(event_shape=SHAPE, hidden=4, marginals=5)


def test_log_p_is_that_behind_and_the_slopes():
    params = FLOW.init(jax.random.key(0))
    numbers = 0.4 * jax.random.normal(jax.random.key(1), params[0]["numbers"].shape)
    params = ({"numbers": numbers}, *params[1:])
    y = jax.random.uniform(jax.random.key(2), SHAPE)
    behind = behind_entrywise(FLOW)
    assert behind.front is elementwise_spline(bins=5)
    own, inner = behind.parts(params)
    u, rises = behind.front.forward(own, y)
    assert np.abs(u - y).max() > 0.05
    np.testing.assert_allclose(FLOW.log_prob(params, y), behind.flow.log_prob(inner, u) + rises, rtol=1e-5)


def test_others_have_no_such_parts():
    assert behind_entrywise(flows.whitened_image(event_shape=SHAPE, hidden=4)) is None
    assert behind_entrywise(flow_of((3,), elementwise_spline())) is None
    assert behind_entrywise(flow_of((3,), chain(elementwise_spline()))) is None


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="marginals >= 2"):
        flows.whitened_image(event_shape=SHAPE, marginals=1)
