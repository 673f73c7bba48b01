"""`gaussian_start`: the density it promises, the constraint it keeps, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from jaxflows.flows.entrywise import behind_entrywise
from jaxflows.metrics import Gaussian, Nonparanormal, observed_log_likelihood

KEY = jax.random.key(0)


def gaussian(size: int, seed: int = 0) -> Gaussian:
    """Deviations that differ tenfold, turned at random."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((size, size)))[0] * np.geomspace(0.3, 3.0, size)
    return Gaussian((size,), rng.standard_normal(size), np.linalg.cholesky(turned @ turned.T))


def draws(of: Gaussian, count: int) -> np.ndarray:
    return of.mean + np.random.default_rng(1).standard_normal((count, of.mean.size)) @ of.factor.T


def log_densities(flow, params, rows):
    return jax.jit(jax.vmap(lambda y: flow.log_prob(params, y)))(jnp.asarray(rows, jnp.float32))


@pytest.mark.parametrize("hidden", [5, 12])
def test_with_a_unit_an_entry_the_flow_is_the_gaussian(hidden):
    of = gaussian(5)
    flow = jf.flows.residual(event_shape=(5,), blocks=4, hidden=hidden)
    params = jf.gaussian_start(KEY, flow, of)
    rows = draws(of, 40)
    np.testing.assert_allclose(
        log_densities(flow, params, rows), observed_log_likelihood(of, rows, np.ones(rows.shape, bool)), atol=2e-5
    )
    assert flow.bijector.lipschitz(params) <= 0.95
    # inside the constraint: projecting again moves nothing
    again = flow.bijector.constrain(params)
    np.testing.assert_allclose(again[1][0]["weight"], params[1][0]["weight"], atol=1e-5)


def test_a_fully_whitened_flow_is_the_gaussian():
    of = gaussian(48)._replace(event_shape=(4, 4, 3))
    flow = jf.flows.whitened_image(event_shape=(4, 4, 3), patch=2, layers=4, hidden=4, dense=5, whitening="full")
    params = jf.gaussian_start(KEY, flow, of)
    rows = draws(of, 40).reshape(-1, 4, 4, 3)
    # float32, 48 entries of deviations that differ tenfold
    expected = observed_log_likelihood(of, rows, np.ones(rows.shape, bool))
    np.testing.assert_allclose(log_densities(flow, params, rows), expected, atol=5e-4)
    back, _ = jax.vmap(lambda y: flow.decode(params, flow.encode(params, y)))(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(back, rows, atol=1e-4)


def test_behind_a_map_of_entries_it_is_the_nonparanormal():
    flow = jf.flows.whitened_image(event_shape=(4, 4, 1), patch=2, layers=4, hidden=4, whitening="full", marginals=5)
    front = behind_entrywise(flow).front
    own = {"numbers": 0.2 * jax.random.normal(jax.random.key(3), (1, 1, 1, 14))}
    of = Nonparanormal(front, own, gaussian(16)._replace(event_shape=(4, 4, 1)))
    params = jf.gaussian_start(KEY, flow, of)
    rows = np.random.default_rng(0).random((20, 4, 4, 1))
    expected = observed_log_likelihood(of.gaussian, of.to_gaussian(rows), np.ones(rows.shape, bool))
    rises = jax.vmap(lambda y: front.forward(own, y)[1])(jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(log_densities(flow, params, rows), expected + rises, rtol=2e-4)
    plain = jf.flows.whitened_image(event_shape=(4, 4, 1), patch=2, layers=4, hidden=4, whitening="full")
    for one, other in ((flow, of.gaussian), (plain, of)):
        with pytest.raises(ValueError, match="the map of entries that the flow begins with"):
            jf.gaussian_start(KEY, one, other)


def test_with_fewer_units_it_is_that_of_the_principal_components():
    of = gaussian(6)
    flow = jf.flows.residual(event_shape=(2, 3), blocks=6, hidden=3)
    params = jf.gaussian_start(KEY, flow, of._replace(event_shape=(2, 3)))
    values, vectors = np.linalg.eigh(of.factor @ of.factor.T)
    values[:3] = values[:3].mean()
    components = Gaussian((6,), of.mean, np.linalg.cholesky((vectors * values) @ vectors.T))
    rows = draws(of, 40)
    np.testing.assert_allclose(
        log_densities(flow, params, rows.reshape(-1, 2, 3)),
        observed_log_likelihood(components, rows, np.ones(rows.shape, bool)),
        atol=2e-5,
    )


def test_what_cannot_be_stretched_so_far_stays_inside_the_constraint():
    of = Gaussian((2,), np.zeros(2), np.diag([1e-4, 1e2]))
    flow = jf.flows.residual(event_shape=(2,), blocks=2, hidden=2)
    params = jf.gaussian_start(KEY, flow, of)
    assert flow.bijector.lipschitz(params) <= 0.95
    assert np.isfinite(log_densities(flow, params, draws(of, 3))).all()


def test_idle_and_used_units_learn_from_there():
    of = gaussian(3)
    flow = jf.flows.residual(event_shape=(3,), blocks=2, hidden=4)
    params = jf.gaussian_start(KEY, flow, of)
    rows = jnp.asarray(draws(of, 16), jnp.float32)
    gradient = jax.grad(lambda p: jnp.mean(jax.vmap(lambda y: flow.log_prob(p, y))(rows)))(params)
    assert np.all(np.abs(gradient[1][1]["weight"]).max(axis=-1) > 0)


@pytest.mark.parametrize(
    "flow",
    [
        jf.flows.residual(event_shape=(3,), logit=True),
        jf.flows.residual(event_shape=(3,), hidden=(8, 8)),
        jf.flows.residual(event_shape=(3,), activation="tanh"),
        jf.flows.realnvp(event_shape=(3,)),
    ],
)
def test_other_flows_are_refused(flow):
    with pytest.raises(ValueError, match=r"one hidden layer, the activation 'clipswish' and no logit"):
        jf.gaussian_start(KEY, flow, gaussian(3))


def test_a_singular_gaussian_is_taken_and_one_without_variance_refused():
    flow = jf.flows.residual(event_shape=(2,), blocks=4, hidden=2)
    params = jf.gaussian_start(KEY, flow, Gaussian((2,), np.zeros(2), np.diag([1.0, 0.0])))
    assert np.isfinite(log_densities(flow, params, np.zeros((1, 2)))).all()
    with pytest.raises(ValueError, match=r"a variance above 0; got 0\.0"):
        jf.gaussian_start(KEY, flow, Gaussian((2,), np.zeros(2), np.zeros((2, 2))))


def test_another_event_is_refused():
    with pytest.raises(ValueError, match=r"events \(4,\); got \(3,\)"):
        jf.gaussian_start(KEY, jf.flows.residual(event_shape=(4,)), gaussian(3))
