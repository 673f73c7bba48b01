"""The boundary sweep's contract: a path that satisfies the constraint is a fixed point of both half sweeps."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import carried
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.registry import FAMILIES
from jaxflows.bijectors.residual import residual_dense
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.observation import linear, mask
from tests.bijectors.cases import CASES, cast, event, parameters


def _observation(kind, shape):
    rng = np.random.default_rng(3)
    size = int(np.prod(shape))
    if kind == "mask":
        return mask(rng.random(shape) < 0.5)
    return linear(rng.standard_normal((max(1, size // 3), size)), shape).observation


# of a family's layers those whose sweeps go through lines of their own: a family's options are its network's or its map's
NAMES = [f"{family}-0" for family in FAMILIES]
NAMES += ["beside-1", "chain-1", "factor_out-1", "invert-1", "implicit", "inverted_chain", "residual_image"]
# a layer uses of an observation its projectors alone, and the linear one's mix all entries: a mask where it is carried along
MASKED = ["beside-1", "chain-1", "factor_out-0", "implicit", "residual_dense-0", "squeeze-0"]


@pytest.mark.parametrize(("name", "kind"), [(name, "linear") for name in NAMES] + [(name, "mask") for name in MASKED])
def test_a_consistent_path_is_a_fixed_point_of_both_half_sweeps(name, kind):
    bijector, shape, _ = CASES[name]
    with jax.enable_x64(True):
        observation = _observation(kind, shape)

        def sweeps(params, u):
            v, path = bijector.trace(params, u)
            new_path, new_v, note = bijector.sweep_forward(params, observation, u, path, v)
            noted = bijector.sweep_backward(params, observation, v, path, u, note)
            backward = bijector.sweep_backward(params, observation, v, path, u, None)
            return v, (path, v), (path, u), (new_path, new_v), backward, noted, bijector.transform(params, u)

        everything = jax.jit(sweeps)(cast(parameters(name), "float64"), event(name))
    v, v_side, u_side, forward, backward, noted, transformed = everything
    np.testing.assert_allclose(v, transformed, rtol=0, atol=1e-10)
    for seen, meant in ((forward, v_side), (backward, u_side), (noted, u_side)):
        assert jax.tree.structure(seen) == jax.tree.structure(meant)
        for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(meant), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_a_half_sweep_renews_one_part_and_keeps_the_other():
    block = residual_dense(hidden=(4,), activation="tanh")
    params = block.init(jax.random.key(0), (4,))
    observation = mask(jnp.asarray([True, False, True, False]))
    u, v = jnp.arange(4.0), jnp.full(4, 9.0)
    _, renewed, note = block.sweep_forward(params, observation, u, (), v)
    # two units in the last place of the guess, 9, from which the difference is taken
    rounding = 2 * np.spacing(np.float32(9.0))
    np.testing.assert_allclose(renewed[::2], block.transform(params, u)[::2], rtol=0, atol=rounding)
    np.testing.assert_array_equal(renewed[1::2], 9.0)
    for given in (note, None):
        _, renewed = block.sweep_backward(params, observation, v, (), u, given)
        np.testing.assert_array_equal(renewed[::2], u[::2])
        h = block.transform(params, u) - u
        np.testing.assert_allclose(renewed[1::2], (v - h)[1::2], rtol=0, atol=rounding)
    # half of an implicit flow: the forward step u - h(v_guess) is explicit too
    _, renewed, _ = invert(block).sweep_forward(params, observation, u, (), v)
    h = block.transform(params, v) - v
    np.testing.assert_allclose(renewed[::2], (u - h)[::2], rtol=0, atol=rounding)
    np.testing.assert_array_equal(renewed[1::2], 9.0)


def test_a_mask_follows_the_entries_a_squeeze_moves():
    observed = jnp.asarray(np.random.default_rng(0).random((4, 4, 1)) < 0.5)
    layer = chain(actnorm(), squeeze(), actnorm())
    moved = carried(layer, mask(observed))
    meant = layer.move(observed.astype(float)) > 0.5
    v = jnp.arange(1.0, 17.0).reshape(2, 2, 4)
    np.testing.assert_array_equal(moved.observed_part(v), jnp.where(meant, v, 0.0))
    np.testing.assert_array_equal(moved.hidden_part(v), jnp.where(meant, 0.0, v))
    np.testing.assert_array_equal(layer.move_back(layer.move(observed)), observed)


def _equations(jaxpr):
    total = len(jaxpr.eqns)
    for value in itertools.chain.from_iterable(equation.params.values() for equation in jaxpr.eqns):
        for inner in jax.tree.leaves(value, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            total += _equations(inner) if hasattr(inner, "eqns") else 0
    return total


def test_the_program_does_not_grow_with_depth():
    body = residual_dense(hidden=(4,))
    observation = mask(jnp.asarray([True, False, True]))

    def size(depth):
        flow = scan_chain(chain(body, invert(body)), depth)
        shapes = jax.eval_shape(functools.partial(flow.init, shape=(3,)), jax.random.key(0))
        u = jnp.zeros(3)

        def everything(params, u):
            v, path = flow.trace(params, u)
            path, v, note = flow.sweep_forward(params, observation, u, path, v)
            back = flow.sweep_backward(params, observation, v, path, u, note)
            both = flow.forward(params, u), flow.inverse(params, u)
            return both, back, flow.constrain(params), flow.lipschitz(params)

        init = jax.make_jaxpr(lambda key: flow.init(key, (3,)))(jax.random.key(0))
        return _equations(jax.make_jaxpr(everything)(shapes, u).jaxpr), _equations(init.jaxpr)

    assert size(2) == size(4) == size(64)
