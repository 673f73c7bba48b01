"""flowjax flows: the same density and directions as flowjax itself, trained there and conditioned here."""

from __future__ import annotations

import flowjax.bijections as bijections
import flowjax.flows as peers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flowjax.distributions import Normal, StandardNormal, StudentT, Transformed
from flowjax.train import fit_to_data

import jaxflows as jf
from jaxflows.adapters import from_flowjax
from tests.adapters.plane import bent_data, check_conditional
from tests.long_cases import cases

KEY = jax.random.key(0)
BASE = Normal(jnp.array([0.5, -1.0, 0.0]), jnp.array([1.0, 2.0, 0.5]))
SPLINE = bijections.RationalQuadraticSpline(knots=4, interval=4)
FLOWS = {
    "coupling": lambda: peers.coupling_flow(KEY, base_dist=BASE, flow_layers=2, nn_width=6, nn_depth=1),
    "coupling not inverted": lambda: peers.coupling_flow(KEY, base_dist=BASE, flow_layers=2, nn_width=6, invert=False),
    "spline coupling": lambda: peers.coupling_flow(KEY, base_dist=BASE, transformer=SPLINE, flow_layers=2, nn_width=6),
    "masked autoregressive": lambda: peers.masked_autoregressive_flow(KEY, base_dist=BASE, flow_layers=2, nn_width=6),
    "triangular spline": lambda: peers.triangular_spline_flow(KEY, base_dist=BASE, flow_layers=2, knots=4),
    "planar": lambda: peers.planar_flow(KEY, base_dist=BASE, flow_layers=2, width_size=4, depth=1, negative_slope=0.1),
    "nested": lambda: Transformed(Transformed(StandardNormal((3,)), bijections.Exp((3,))), bijections.Tanh((3,))),
}  # fmt: skip


@pytest.mark.parametrize("name", cases(FLOWS, ["triangular spline"]))
def test_density_and_directions_are_those_of_flowjax(name):
    distribution = FLOWS[name]()
    # inside the support of the one flow that has a bounded one
    events = jnp.array([[0.3, 0.8, 0.5], [0.9, 0.2, 0.7]])
    flow, params = from_flowjax(distribution, probe=events[0])

    @jax.jit
    @jax.vmap
    def there_and_back(y):
        return flow.log_prob(params, y), distribution.log_prob(y), *flow.decode(params, flow.encode(params, y))

    found, theirs, back, info = there_and_back(events)
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back, events, atol=2e-4)
    assert np.all(info.converged)


def test_parameters_are_the_floating_point_arrays_and_carry_gradients():
    distribution = FLOWS["coupling"]()
    flow, params = from_flowjax(distribution)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))
    y = jnp.array([0.3, -0.8, 0.5])
    gradient = jax.jit(jax.grad(flow.log_prob))(params, y)
    assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(gradient)) > 0
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    np.testing.assert_allclose(jax.jit(jax.vmap(flow.log_prob, (0, None)))(two, y)[0], distribution.log_prob(y), rtol=1e-5)


def test_a_conditional_flow_is_conditioned_on_what_it_was_trained_with():
    distribution = peers.coupling_flow(KEY, base_dist=StandardNormal((2,)), cond_dim=3, flow_layers=2, nn_width=6)
    held, y = jnp.array([1.0, -1.0, 0.5]), jnp.array([0.3, -0.8])
    flow, params = from_flowjax(distribution, condition=held)
    np.testing.assert_allclose(flow.log_prob(params, y), distribution.log_prob(y, held), rtol=1e-5)
    with pytest.raises(ValueError, match=r"expected condition= of shape \(3,\), which this conditional flow was trained with"):
        from_flowjax(distribution)
    with pytest.raises(ValueError, match=r"expected a condition of shape \(3,\); got \(2,\)"):
        from_flowjax(distribution, condition=jnp.ones(2))
    with pytest.raises(ValueError, match="expected no condition for an unconditional flow; got one"):
        from_flowjax(FLOWS["coupling"](), condition=held)


def test_what_cannot_be_conditioned_is_refused():
    with pytest.raises(ValueError, match="expected a flowjax Transformed distribution; got StandardNormal"):
        from_flowjax(StandardNormal((2,)))
    heavy = Transformed(StudentT(jnp.full(2, 3.0)), bijections.Affine(jnp.zeros(2)))
    with pytest.raises(ValueError, match="got a base of _StandardStudentT"):
        from_flowjax(heavy)
    planar = peers.planar_flow(KEY, base_dist=BASE, flow_layers=1, width_size=4, depth=1, invert=False)
    with pytest.raises(ValueError, match=r"explicit direction from data to latent; .* \(build it with invert=True\)"):
        from_flowjax(planar)


def test_trained_by_flowjax_and_conditioned_here():
    untrained = peers.coupling_flow(KEY, base_dist=StandardNormal((2,)), flow_layers=2, nn_width=16, nn_depth=1)
    trained, _ = fit_to_data(
        jax.random.key(1), untrained, bent_data(1500), optimizer=optax.adam(5e-3), max_epochs=12, batch_size=128,
        show_progress=False,
    )  # fmt: skip
    flow, params = from_flowjax(trained)
    check_conditional(flow, params, (-1.0, 0.5, 1.5))


@pytest.mark.long
def test_permutations_between_layers_are_conditioned_by_the_automatic_partition():
    # the latent's order is the permutations', so that the same coordinates can be those that are observed
    distribution = peers.coupling_flow(KEY, base_dist=StandardNormal((4,)), flow_layers=3, nn_width=8, nn_depth=1)
    flow, params = from_flowjax(distribution)
    rows = np.asarray(distribution.sample(jax.random.key(1), (2,)))
    observed = np.array([[True, False, True, False], [False, True, True, False]])
    result = jf.complete(jax.random.key(2), flow, params, rows, observed, num_samples=64, partition="auto", progress=False)
    assert "tangent" in result.info.partition
    assert np.all(result.info.overlap > 0.35)
    assert np.all(result.info.converged == 1.0)
    assert np.all(result.info.ess > 0.5 * 64)
    np.testing.assert_array_equal(result.samples[:, 0][observed], rows[observed])


@pytest.mark.long
def test_rows_of_a_larger_flow_are_completed():
    # a single layer: the random permutations between layers leave same-index sub-Jacobians singular
    layer = bijections.MaskedAutoregressive(
        KEY, transformer=bijections.Affine(jnp.zeros(()), jnp.ones(())), dim=4, nn_width=8, nn_depth=1
    )
    distribution = Transformed(StandardNormal((4,)), bijections.Invert(layer))
    flow, params = from_flowjax(distribution)
    rows = np.asarray(distribution.sample(jax.random.key(1), (2,)))
    observed = np.array([[True, False, True, False], [False, True, True, True]])
    result = jf.complete(jax.random.key(2), flow, params, rows, observed, num_samples=32, progress=False)
    assert np.all(result.info.converged == 1.0)
    assert np.all(result.info.ess > 3)
    np.testing.assert_array_equal(result.samples[:, 0][observed], rows[observed])
