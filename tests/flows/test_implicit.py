"""Implicit flows: a sweep without nested fixed points, starts fitted through inverted blocks, and what a pair can do."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from jaxflows import flows
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.residual import residual_dense
from jaxflows.observation import linear, mask
from jaxflows.solvers.boundary_sweep import boundary_sweep, sweep
from jaxflows.solvers.chord import chord
from jaxflows.solvers.equation import trace

FLOW = flows.implicit(event_shape=(6,), blocks=2, hidden=12, activation="tanh", coeff=0.7)


@functools.cache
def initial() -> Any:
    # contractive without a projection: products of norms are about 0.5. An init takes longer to compile than the tests
    rng = np.random.default_rng(0)
    template = jax.eval_shape(FLOW.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.12 * rng.standard_normal(leaf.shape), leaf.dtype), template)


def _primitives(jaxpr: Any) -> set[str]:
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
                inner = getattr(inner, "jaxpr", inner)
                names |= _primitives(inner) if hasattr(inner, "eqns") else set()
    return names


def test_a_sweep_solves_no_nested_fixed_point():
    observation = mask(jnp.asarray([True, False] * 3))
    stack = jax.eval_shape(lambda p: trace(FLOW, p, jnp.zeros(6)), initial())
    swept = _primitives(jax.make_jaxpr(lambda p, s: sweep(FLOW, p, observation, s))(initial(), stack).jaxpr)
    assert "while" not in swept
    # encoding does: what the sweep spares
    assert "while" in _primitives(jax.make_jaxpr(FLOW.encode)(initial(), jnp.zeros(6)).jaxpr)


@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_the_constraint_is_solved_in_a_few_sweeps_of_known_cost(kind):
    rng = np.random.default_rng(3)
    observation = (
        mask(jnp.asarray([True, False] * 3)) if kind == "mask" else linear(rng.standard_normal((2, 6)), (6,)).observation
    )
    y_observed = observation.observed_part(jnp.asarray(rng.standard_normal(6), jnp.float32))
    x_hidden = jnp.asarray(rng.standard_normal(6), jnp.float32)
    solver = boundary_sweep(max_checks=1)
    y, info = jax.jit(lambda p: jf.solve(FLOW, p, observation, y_observed, x_hidden, solver=solver))(initial())
    assert bool(info.converged)
    # one cold start and one check of 2 blocks a pair; a sweep costs 1 for the residual block and 2 for the inverted one
    assert FLOW.bijector.blocks == 4
    assert FLOW.bijector.sweep_blocks == 6
    assert int(info.evaluations) == 6 * int(info.steps) + 2 * 4
    assert int(info.steps) < 40
    x = FLOW.encode(initial(), y)
    np.testing.assert_allclose(observation.hidden_part(x - x_hidden), 0.0, atol=1e-4)
    np.testing.assert_allclose(observation.observed_part(y), y_observed, atol=1e-5)


def test_what_is_counted_of_a_fixed_point_inside():
    block = residual_dense(hidden=(12,), activation="tanh", coeff=0.7)
    pair = chain(block, invert(block))
    params = jax.tree.map(lambda leaf: leaf[0], initial()[1][0])
    v = jnp.linspace(-1.0, 1.0, 6)

    def inversions(params, v):
        return pair.invert((params, params), v)[1], block.invert(params, block.transform(params, v))[1]

    both, inside = jax.jit(inversions)(params, v)
    # data from latent: one evaluation through the inverted block, and the steps of the residual block's fixed point
    assert int(inside.evaluations) == int(inside.steps) > 3
    assert int(both.evaluations) == 1 + int(inside.evaluations)
    # latent from data: a pass counts its blocks, whatever the inverted ones iterate
    observation = mask(jnp.asarray([True, False] * 3))
    _, info = jax.jit(lambda p: jf.solve(FLOW, p, observation, v, jnp.zeros(6), solver=chord()))(initial())
    assert bool(info.converged)
    assert int(info.evaluations) == FLOW.bijector.blocks * (int(info.steps) + 1)


def test_every_actnorm_starts_on_what_leaves_the_block_before_it_inverted_or_not():
    batch = jnp.asarray(3.0 + 2.0 * np.random.default_rng(0).standard_normal((64, 6)), jnp.float32)

    def start(params):
        params = FLOW.bijector.fit_to_data(params, batch)
        return params, jax.vmap(lambda y: FLOW.bijector.trace(params, y))(batch)

    params, (x, (inner, outer)) = jax.jit(start)(initial())
    # the points of a pair: behind the residual block, its norm and the inverted block, stacked over pairs
    _, (behind_residual, behind_first_norm, behind_inverted) = inner[1][0]
    behind_second_norm = jnp.concatenate([inner[1][1], x[:, None]], axis=1)
    for points in (outer[0], x, behind_first_norm, behind_second_norm):
        axes = (0, points.ndim - 1)
        np.testing.assert_allclose(jnp.mean(points, axis=axes), 0.0, atol=1e-5)
        np.testing.assert_allclose(jnp.std(points, axis=axes), 1.0, rtol=1e-4)
    for points in (behind_residual, behind_inverted):
        assert np.all(np.abs(np.std(np.asarray(points), axis=(0, 2)) - 1.0) > 1e-3)
    # the inverted blocks themselves are as they were drawn
    jax.tree.map(np.testing.assert_array_equal, params[1][2], initial()[1][2])


def test_a_pair_contracts_further_than_any_residual_block():
    # (1 - 0.7) / (1 + 0.7) = 0.18 along a line, where one block of the same constant stays above 0.3
    flow = flows.implicit(event_shape=(1,), blocks=1, hidden=1, activation="tanh", coeff=0.71)
    params = jax.eval_shape(flow.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    for block, sign in ((params[1][0], -1.0), (params[1][2], 1.0)):
        block[0]["weight"], block[1]["weight"] = jnp.ones((1, 1, 1)), jnp.full((1, 1, 1), 0.7 * sign)
    slope = jax.jit(jax.grad(lambda y: flow.encode(params, y)[0]))(jnp.zeros(1))
    np.testing.assert_allclose(slope, 0.3 / 1.7, rtol=1e-4)


@pytest.mark.long
def test_the_estimate_in_training_has_the_gradient_of_the_exact_log_density():
    estimator = jf.log_det.exact()

    def value(params, y):
        return FLOW.estimate_log_prob(jax.random.key(0), params, y, estimator).value

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), initial())
        y = jnp.linspace(-1.0, 1.0, 6)
        estimated = jax.jit(jax.grad(value))(params, y)
        exact = jax.jit(jax.grad(FLOW.log_prob))(params, y)
    for left, right in zip(jax.tree.leaves(estimated), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-8)
