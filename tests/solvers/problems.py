"""Constraint problems that every solver's tests share: small flows, observations, and two without a solution."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows import flows
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import describe, layer
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.residual import residual_dense
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.observation import linear, mask
from jaxflows.solvers.equation import trace
from jaxflows.solvers.fixed_point import fixed_point

SIZE = 8


def dense_flow():
    return flows.residual(event_shape=(SIZE,), blocks=3, hidden=12, activation="elu", coeff=0.7)


def implicit_flow():
    """Layers that run forward and inverted, one in closed form, and one that moves the entries."""
    body = residual_dense(hidden=(12,), activation="tanh", coeff=0.6)
    layers = scan_chain(body, 2), squeeze(), actnorm(over="event"), scan_chain(invert(body), 2)
    return flows.flow_of((4, 2, 1), chain(*layers))


def moving_flow():
    body = residual_dense(hidden=(12,), activation="tanh", coeff=0.6)
    return flows.flow_of((4, 2, 1), chain(scan_chain(body, 2), squeeze(), body))


FLOWS = {"residual": dense_flow, "implicit": implicit_flow, "squeezed": moving_flow}


@functools.cache
def _drawn(name):
    with jax.enable_x64(False):
        return jax.tree.map(np.asarray, jax.jit(FLOWS[name]().init)(jax.random.key(3)))


@functools.cache
def parameters(name, dtype="float32"):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), _drawn(name))


def observation_of(kind, shape):
    size = math.prod(shape)
    if kind == "mask":
        return mask(jnp.asarray(np.random.default_rng(4).random(shape) < 0.5))
    return linear(np.random.default_rng(5).standard_normal((3, size)), shape).observation


def problem(name, kind, dtype="float32", seed=6):
    """(flow, params, observation, y_observed, x_hidden), all in ``dtype``."""
    flow = FLOWS[name]()
    observation = observation_of(kind, flow.event_shape)
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.standard_normal(flow.event_shape), dtype)
    x_hidden = jnp.asarray(rng.standard_normal(flow.latent_shape), dtype)
    return flow, parameters(name, dtype), observation, observation.observed_part(y), x_hidden


@functools.cache
def _true_residual(name):
    bijector = FLOWS[name]().bijector

    def largest(params, observation, y, x_hidden):
        back = bijector.move_back(bijector.transform(params, y) - x_hidden)
        return jnp.max(jnp.abs(observation.hidden_part(back)))

    return jax.jit(largest)


def true_residual(name, params, observation, y, x_hidden):
    """max |P_H(g(y) - x_hidden)|, computed apart from the solvers."""
    with jax.default_matmul_precision("highest"):
        return float(_true_residual(name)(params, observation, y, x_hidden))


TURN = math.tan(math.pi / 8)


@functools.cache
def rotation_layer():
    """u -> u + tan(22.5 degrees) K u with K a quarter turn: contractive, and four of them make a scaled quarter turn."""

    def residual(params, u):
        return params * jnp.stack([-u[1], u[0]])

    solve = fixed_point(lambda args, u: args[1] - residual(args[0], u))
    return layer(
        spec=describe("test_rotation"),
        init=lambda key, shape: jnp.full((), TURN),
        transform=lambda params, u: u + residual(params, u),
        invert=lambda params, v: solve((params, v), v),
        log_det=lambda params, u: jnp.log1p(params**2),
        backward_step=lambda params, v, u_guess: v - residual(params, u_guess),
        backward_from_image=lambda v, u_guess, image: v + (u_guess - image),
        blocks=1,
    )


def singular_problem():
    """Four quarter-turn blocks with the first entry seen: G^HH = 0, so no y_hidden changes x_hidden."""
    flow = flows.flow_of((2,), scan_chain(rotation_layer(), 4))
    params = flow.init(jax.random.key(0))
    observed = mask(jnp.array([True, False]))
    return flow, params, observed, jnp.array([0.7, 0.0]), jnp.array([0.0, -1.3])


def singular_parameters():
    """Three turns of 30 degrees in the first two entries of `dense_flow`: with the first seen and the second not, G^HH = 0.

    An elu is the identity above zero, where a bias keeps it: the turns are exact as far as entries of a thousand.
    """
    far, tangent = 1e3, math.tan(math.pi / 6)
    turn = np.zeros((12, SIZE))
    turn[1, 0], turn[0, 1] = -tangent, tangent
    affine, (first, second) = parameters("residual", "float64")
    stacked = lambda array: jnp.asarray(np.stack([array] * 3))  # noqa: E731
    first = {**first, "weight": stacked(np.eye(SIZE, 12)), "bias": stacked(np.full(12, far))}
    second = {**second, "weight": stacked(turn), "bias": stacked(-far * turn.sum(axis=0))}
    return affine, [first, second]


def assert_solves(run, name, kind, dtype, tol, cold=True):
    """``run`` is a solver on the flow ``name``, started by itself when ``cold``, else at the trace of what was observed."""
    _, params, observation, y_observed, x_hidden = problem(name, kind, dtype)
    start = None if cold else cold_start(name)(params, y_observed)
    solution, info = run(params, observation, y_observed, x_hidden, start)
    assert solution.y.dtype == dtype
    assert bool(info.converged)
    residual = true_residual(name, params, observation, solution.y, x_hidden)
    assert residual <= tol
    np.testing.assert_allclose(observation.observed_part(solution.y), y_observed, atol=20 * np.finfo(dtype).eps)
    assert abs(float(info.residual) - residual) <= 20 * np.finfo(dtype).eps
    return solution, info


@functools.cache
def cold_start(name):
    return jax.jit(functools.partial(trace, FLOWS[name]()))
