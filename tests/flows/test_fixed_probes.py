"""Log-determinants by probes that never change: those of the estimator, and the exact ones where it is exact."""

from __future__ import annotations

import jax
import numpy as np

from jaxflows import flows
from jaxflows.flows.fixed_probes import estimated_density
from jaxflows.log_det.estimators import exact, power_series

FLOW = flows.residual(event_shape=(5,), blocks=2, hidden=4)


def test_densities_are_the_estimators_at_one_key_and_chains_see_one_function(random_params):
    params, events = random_params(FLOW), jax.random.normal(jax.random.key(1), (3, 5))
    series = power_series(terms=3)
    estimated = estimated_density(FLOW, estimator=series, seed=7)
    found = jax.jit(jax.vmap(lambda y: estimated.log_prob(params, y)))(events)
    expected = jax.vmap(lambda y: FLOW.estimate_log_prob(jax.random.key(7), params, y, series).value)(events)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # another seed is another density, and equal options are one object, so that nothing is traced again
    other = estimated_density(FLOW, estimator=series, seed=8)
    assert np.all(np.abs(jax.vmap(lambda y: other.log_prob(params, y))(events) - found) > 1e-6)
    assert estimated_density(FLOW, estimator=series, seed=7) is estimated


def test_by_the_exact_estimator_it_is_the_flow_itself_both_ways(random_params):
    params, y = random_params(FLOW), jax.random.normal(jax.random.key(2), (5,))
    same = estimated_density(FLOW, estimator=exact())
    np.testing.assert_allclose(same.log_prob(params, y), FLOW.log_prob(params, y), rtol=1e-5)
    x = FLOW.encode(params, y)
    for found, expected in zip(same.bijector.inverse(params, x), FLOW.bijector.inverse(params, x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert same.bijector.spec == FLOW.bijector.spec
