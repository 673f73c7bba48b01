"""The joint bound: its value and gradient against quadrature, and the shelter of what was not solved."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxflows import flows
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.elbo import nlade
from jaxflows.conditional.hidden import hidden
from jaxflows.networks.inference_network import DenseInference, fresh_network
from jaxflows.observation import mask
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.training import joint_loss as module
from jaxflows.training.joint_loss import IncompleteBatch, gap_value, joint_loss

# of two rows each
DRAWS = 600
NODES = 16
FLOW = flows.residual(event_shape=(3,), blocks=2, hidden=4, coeff=0.7)
SEEN = np.array([False, True, False])
fresh = jax.jit(FLOW.init)


@functools.cache
def model():
    """A flow and a posterior with random parameters, in float64, and one row."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.1 * rng.standard_normal(leaf.shape)), fresh(jax.random.key(0)))
    params = jax.jit(lambda p: jax.lax.fori_loop(0, 50, lambda _, q: FLOW.bijector.constrain(q), p))(params)
    network = DenseInference(widths=(3,))
    weights = fresh_network(jax.random.key(1), network, (3,), jnp.float64)
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.3 * rng.standard_normal(leaf.shape)), weights)
    posterior = Amortised(network, weights, jnp.array([0.1, -0.2, 0.3]), jnp.array([1.0, 2.0, 0.5]))
    return {"flow": params, "network": weights}, posterior, jnp.array([0.0, 0.7, 0.0])


def quadrature_loss(params, posterior, y):
    """-L(q) / d by Gauss-Hermite quadrature over the two hidden latents, Newton's method and dense determinants."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    eps = jnp.asarray(np.stack(np.meshgrid(points, points), -1).reshape(-1, 2))
    weights = jnp.asarray(np.outer(weights, weights).reshape(-1) / (2 * np.pi))
    h = np.flatnonzero(~SEEN)
    mu, log_sigma = (m[h] for m in posterior._replace(params=params["network"]).moments(y, jnp.asarray(SEEN)))

    def encode(y_hidden):
        return FLOW.encode(params["flow"], y.at[h].set(y_hidden))

    def one(e):
        x_hidden = mu + jnp.exp(log_sigma) * e

        def newton(y_hidden, _):
            block = jax.jacfwd(encode)(y_hidden)[h]
            return y_hidden - jnp.linalg.solve(block, encode(y_hidden)[h] - x_hidden), None

        y_hidden, _ = jax.lax.scan(newton, x_hidden, length=8)
        whole = jax.jacfwd(lambda t: FLOW.encode(params["flow"], t))(y.at[h].set(y_hidden))
        gap = jnp.linalg.slogdet(whole)[1] - jnp.linalg.slogdet(whole[np.ix_(h, h)])[1]
        x = encode(y_hidden)
        log_p = -0.5 * jnp.sum(x**2) - 1.5 * jnp.log(2 * jnp.pi)
        log_q = -0.5 * jnp.sum(e**2) - jnp.sum(log_sigma) - jnp.log(2 * jnp.pi)
        return log_p + gap - log_q

    return -jnp.sum(weights * jax.vmap(one)(eps)) / 3


def breaking(flow, params, observation, y_observed, x_hidden, start=None, inverse=None):
    """The boundary sweep, but for rows whose observed entry is above 10: unsolved, and NaN."""
    solution, info = boundary_sweep()(flow, params, observation, y_observed, x_hidden, start, inverse)
    broken = y_observed[1] > 10.0
    spoilt = jax.tree.map(lambda leaf: jnp.where(broken, jnp.nan, leaf), solution)
    return spoilt, info._replace(converged=info.converged & ~broken)


@pytest.fixture(scope="module")
def stochastic():
    """``(key, rows (2, 3)) -> ((loss, unconverged), gradient)`` at the model, with the solver that breaks; compiled once."""
    with jax.enable_x64(True):
        params, posterior, _ = model()
        loss = joint_loss(
            FLOW, posterior, estimator=nlade(), solver=breaking, num_samples=1, noise=None, head_weight=0.0
        )  # fmt: skip
        seen = jnp.asarray(np.stack([SEEN, SEEN]))

        def outcome(p, key, rows):
            losses = loss(key, p, IncompleteBatch(rows, seen, jnp.array([-1, -1])))
            return losses["loss"], losses["unconverged"]

        compiled = jax.jit(jax.value_and_grad(outcome, has_aux=True))
        yield lambda key, rows: compiled(params, key, rows)


@pytest.mark.long
def test_value_and_gradient_are_unbiased_for_flow_and_network(stochastic):
    with jax.enable_x64(True):
        params, posterior, y = model()
        flat, unravel = ravel_pytree(params)
        value, gradient = jax.jit(jax.value_and_grad(lambda f: quadrature_loss(unravel(f), posterior, y)))(flat)
        rows = jnp.stack([y, y])
        results = [stochastic(key, rows) for key in jax.random.split(jax.random.key(2), DRAWS)]
        values = np.array([float(loss) for (loss, _), _ in results])
        gradients = np.stack([np.asarray(ravel_pytree(draw)[0]) for _, draw in results])
        # power-iteration vectors and the entries of networks that the row's mask leaves out have no gradient at all
        moving = np.abs(gradient) > 1e-12
        error = gradients.std(axis=0) / np.sqrt(DRAWS)
        assert moving.sum() > 40
        assert np.all(np.abs(gradients.mean(axis=0) - gradient) <= 5 * error + 1e-7)
        assert abs(values.mean() - value) <= 5 * values.std() / np.sqrt(DRAWS)
        # an error of a tenth in the gradient would be seen in some direction
        assert np.max(np.abs(gradient) / (error + 1e-7)) > 50


def test_an_overflow_in_a_row_that_was_not_solved_spoils_nothing(stochastic):
    with jax.enable_x64(True):
        _, _, y = model()
        rows = jnp.stack([y, y.at[1].set(20.0)])
        (value, unconverged), gradient = stochastic(jax.random.key(3), rows)
        assert unconverged == 0.5
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0
        # what the broken row held has no say
        (other, _), again = stochastic(jax.random.key(3), rows.at[1, 1].set(30.0))
        assert other == value
        jax.tree.map(np.testing.assert_array_equal, again, gradient)


def test_estimated_values_of_the_log_determinants_agree_with_the_exact_ones(monkeypatch):
    params = fresh(jax.random.key(4))
    y = jnp.array([0.3, -1.0, 0.4])

    def value(key, seen):
        return gap_value(key, FLOW, params, hidden(mask(seen)), y)

    masks = jnp.array([[True, False, True], [False, False, False], [True, True, True]])
    exact = jax.jit(jax.vmap(value, in_axes=(None, 0)))(jax.random.key(0), masks)
    monkeypatch.setattr(module, "EXACT_SIZE", 0)
    keys = jax.random.split(jax.random.key(5), 400)
    values = np.asarray(jax.jit(jax.vmap(jax.vmap(value, in_axes=(0, None)), in_axes=(None, 0)))(keys, masks))
    # the series stops after 20 terms; its certified remainder at Lipschitz 0.7 is below 3e-4
    error = values.std(axis=1) / np.sqrt(400)
    assert np.all(np.abs(values.mean(axis=1) - np.asarray(exact)) <= 5 * error + 3e-4)
