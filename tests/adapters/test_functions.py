"""A flow from the user's own functions: it keeps the contract, and what is wrong with the functions is said."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from jaxflows.adapters import from_functions
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain
from jaxflows.flows import flow_of, standard_normal_log_prob

PARAMS = {"bend": jnp.array(0.4), "scale": jnp.array([0.5, 2.0])}
EVENT = jnp.array([0.3, -1.2])


def encode(params, y):
    """A triangular map: x_1 = y_1 / s_1, x_2 = (y_2 - bend y_1^2) / s_2."""
    return jnp.array([y[0], y[1] - params["bend"] * y[0] ** 2]) / params["scale"]


def decode(params, x):
    z = x * params["scale"]
    return jnp.array([z[0], z[1] + params["bend"] * z[0] ** 2])


def log_det(params, y):
    del y
    return -jnp.sum(jnp.log(params["scale"]))


def test_all_three_functions_are_used_as_given():
    flow, params = from_functions((2,), encode, decode, log_det, params=PARAMS)
    assert flow.encode(params, EVENT).tolist() == encode(PARAMS, EVENT).tolist()
    y, info = flow.decode(params, encode(PARAMS, EVENT))
    np.testing.assert_allclose(y, EVENT, rtol=1e-6)
    assert bool(info.converged)
    assert flow.bijector.blocks == 1
    expected = standard_normal_log_prob(encode(PARAMS, EVENT)) + log_det(PARAMS, EVENT)
    np.testing.assert_allclose(flow.log_prob(params, EVENT), expected, rtol=1e-6)
    assert jax.tree.map(jnp.shape, flow.init(jax.random.key(0))) == jax.tree.map(jnp.shape, PARAMS)


def test_what_is_left_out_is_computed():
    whole, params = from_functions((2,), encode, decode, log_det, params=PARAMS)
    bare, _ = from_functions((2,), encode, params=PARAMS)
    np.testing.assert_allclose(bare.log_prob(params, EVENT), whole.log_prob(params, EVENT), rtol=1e-5)
    y, info = jax.jit(bare.decode)(params, jnp.array([1.5, -0.7]))
    np.testing.assert_allclose(y, decode(params, jnp.array([1.5, -0.7])), atol=1e-4)
    assert bool(info.converged)
    assert float(info.residual) < 1e-4


def test_newton_decode_is_differentiable_in_params_and_latent():
    bare, params = from_functions((2,), encode, params=PARAMS)
    x = jnp.array([1.5, -0.7])
    found = jax.grad(lambda p, x: jnp.sum(jnp.sin(bare.decode(p, x)[0])), argnums=(0, 1))(params, x)
    meant = jax.grad(lambda p, x: jnp.sum(jnp.sin(decode(p, x))), argnums=(0, 1))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, meant)


def test_newton_decode_needs_more_than_one_step_and_says_when_it_fails():
    flow, params = from_functions((3,), lambda p, y: y + 0.9 * jnp.sin(2 * y[::-1]) * 0.5)
    x = 3 * jax.random.normal(jax.random.key(0), (20, 3))
    y, info = jax.vmap(lambda t: flow.decode(params, t))(x)
    assert bool(jnp.all(info.converged))
    assert int(info.steps.max()) > 2
    np.testing.assert_allclose(jax.vmap(lambda t: flow.encode(params, t))(y), x, atol=1e-4)
    bounded, params = from_functions((2,), lambda p, y: jnp.tanh(y))
    _, info = bounded.decode(params, jnp.array([2.0, 0.0]))
    assert not bool(info.converged)


def test_events_of_any_shape_and_layers_around_it():
    flow, params = from_functions((2, 2), lambda p, y: p * y + 0.1 * y**3, params=jnp.array(2.0))
    composed = flow_of((2, 2), chain(actnorm(over="event"), flow.bijector))
    both = (actnorm(over="event").init(jax.random.key(0), (2, 2)), params)
    y = jnp.arange(4.0).reshape(2, 2)
    np.testing.assert_allclose(composed.log_prob(both, y), flow.log_prob(params, y), rtol=1e-5)
    with pytest.raises(ValueError, match=r"expected events of shape \(2, 2\), for which the flow was made; got \(4,\)"):
        flow_of((4,), flow.bijector)


def test_float64_is_kept():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PARAMS)
        flow, params = from_functions((2,), encode, params=params)
        y, info = flow.decode(params, jnp.array([1.5, -0.7]))
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, decode(params, jnp.array([1.5, -0.7])), atol=1e-9)
        assert float(info.residual) < 1e-9


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((encode, decode, lambda p, y: -log_det(p, y) + 1.0), r"expected log_det = log\|det dx/dy\| of encode"),
        ((lambda p, y: 3 * y, None, lambda p, y: -2 * jnp.log(3.0)), "log-determinant of the other direction; negate it, or"),
        ((lambda p, y: 3 * y, lambda p, x: 3 * x), r"expected decode\(params, encode\(params, y\)\) = y; got an event"),
        ((lambda p, y: jnp.sum(y), None), r"expected encode to return an array of shape \(2,\); got shape \(\)"),
        ((lambda p, y: y, lambda p, x: x[:1]), r"expected decode to return an array of shape \(2,\); got shape \(1,\)"),
        ((lambda p, y: y, None, lambda p, y: y), r"expected log_det to return an array of shape \(\); got shape \(2,\)"),
        ((lambda p, y: jnp.log(y), None), "expected finite values of encode; got NaN or infinity at the probe"),
        ((lambda p, y: y[0] * jnp.ones(2), None), "expected an invertible encode; got a Jacobian with singular values from"),
        ((lambda p, y: jnp.ones(2, int), None), "expected encode to return floating-point numbers; got dtype int32"),
        ((lambda p, y: jnp.sqrt(jnp.abs(0 * y)), None), "expected an encode with a finite Jacobian; got NaN or infinity"),
    ],
)  # fmt: skip
def test_functions_that_disagree_are_refused_before_any_work(functions, message):
    with pytest.raises(ValueError, match=message):
        from_functions((2,), *functions, params=PARAMS)


def test_exchanged_directions_show_in_the_log_determinant():
    with pytest.raises(ValueError, match="exchange encode and decode"):
        from_functions((2,), lambda p, y: 2 * y, lambda p, x: x / 2, lambda p, y: -2 * jnp.log(2.0))


def test_the_probe_is_where_the_functions_are_compared():
    flow, params = from_functions((2,), lambda p, y: jnp.log(y), lambda p, x: jnp.exp(x), probe=jnp.ones(2))
    assert float(flow.log_prob(params, jnp.ones(2))) == pytest.approx(-np.log(2 * np.pi), rel=1e-6)
    with pytest.raises(ValueError, match=r"expected a floating-point probe of shape \(2,\); got float32 of shape \(3,\)"):
        from_functions((2,), encode, params=PARAMS, probe=jnp.ones(3))
    with pytest.raises(ValueError, match="expected a floating-point probe"):
        from_functions((2,), encode, params=PARAMS, probe=[1, 2])


def test_a_flow_from_outside_cannot_be_saved(tmp_path):
    flow, params = from_functions((2,), encode, params=PARAMS)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"expected a flow of jaxflows' own layers, .*'outside'.*save its parameters with"):
        jf.save(path, flow, params)
    with pytest.raises(ValueError, match="expected a flow of jaxflows' own layers"):
        jf.save(path, flow_of((2,), chain(actnorm(over="event"), flow.bijector)), params)
    assert not path.exists()


def test_it_is_conditioned_as_any_other_flow():
    flow, params = from_functions((2,), encode, decode, log_det, params=PARAMS)
    rows = np.array([[1.0, np.nan]], np.float32)
    result = jf.complete(jax.random.key(0), flow, params, rows, np.isfinite(rows), num_samples=400, progress=False)
    assert result.info.converged[0] == 1.0
    # y_2 given y_1 = 1 is N(bend, s_2^2), and the Gauss-Newton posterior is exact
    assert abs(result.samples[0, :, 1].mean() - 0.4) < 5 * 2.0 / 400**0.5
    assert result.info.ess[0] > 0.99 * 400
