"""Constraint problems that every solver's tests share: small flows, observations, and one without a solution."""

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
from jaxflows.solvers.fixed_point import fixed_point

SIZE = 8
# these tests run each program a few times: compiling costs more than running
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=FAST_COMPILE)


def dense_flow():
    return flows.residual(event_shape=(SIZE,), blocks=3, hidden=12, activation="elu", coeff=0.7)


def implicit_flow():
    body = residual_dense(hidden=(12,), activation="tanh", coeff=0.6)
    return flows.flow_of((SIZE,), chain(scan_chain(body, 2), invert(body), actnorm(over="event"), scan_chain(invert(body), 2)))


def moving_flow():
    body = residual_dense(hidden=(12,), activation="tanh", coeff=0.6)
    return flows.flow_of((4, 2, 1), chain(scan_chain(body, 2), squeeze(), body))


FLOWS = {"residual": dense_flow, "implicit": implicit_flow, "squeezed": moving_flow}


@functools.cache
def parameters(name, dtype="float32"):
    params = FLOWS[name]().init(jax.random.key(3))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


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


def true_residual(flow, params, observation, y, x_hidden):
    """max |P_H(g(y) - x_hidden)|, computed apart from the solvers."""
    with jax.default_matmul_precision("highest"):
        back = flow.bijector.move_back(flow.encode(params, y) - x_hidden)
    return float(jnp.max(jnp.abs(observation.hidden_part(back))))


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


def assert_solves(solver, name, kind, dtype, tol, start=None):
    flow, params, observation, y_observed, x_hidden = problem(name, kind, dtype)
    solution, info = jit(lambda *a: solver(flow, *a, start))(params, observation, y_observed, x_hidden)
    assert solution.y.dtype == dtype
    assert bool(info.converged)
    assert true_residual(flow, params, observation, solution.y, x_hidden) <= tol
    np.testing.assert_allclose(observation.observed_part(solution.y), y_observed, atol=20 * np.finfo(dtype).eps)
    claimed = float(info.residual)
    assert abs(claimed - true_residual(flow, params, observation, solution.y, x_hidden)) <= 20 * np.finfo(dtype).eps
    return solution, info


def assert_rows_agree(solver, name, nested=False):
    """A batch with another mask a row gives what its rows give alone, for the same steps and evaluations.

    A ``nested`` solver's inner inversions stop at a tolerance near float32's rounding, and a batched product rounds otherwise
    than a single one: each outer step may then take one more inner evaluation, or one less, of every block.
    """
    flow, params, _, _, _ = problem(name, "mask")
    rng = np.random.default_rng(7)
    masks = jnp.asarray(rng.random((3, *flow.event_shape)) < np.array([0.2, 0.5, 0.8]).reshape(3, *[1] * len(flow.event_shape)))
    ys = jnp.asarray(rng.standard_normal((3, *flow.event_shape)), jnp.float32)
    xs = jnp.asarray(rng.standard_normal((3, *flow.latent_shape)), jnp.float32)

    def one(observed, y, x):
        seen = mask(observed)
        solution, info = solver(flow, params, seen, seen.observed_part(y), x, None)
        return solution.y, info.converged, info.evaluations, info.steps

    batch, converged, evaluations, steps = jit(jax.vmap(one))(masks, ys, xs)
    assert bool(converged.all())
    run = jit(one)
    alone = [run(*row) for row in zip(masks, ys, xs, strict=True)]
    np.testing.assert_allclose(batch, jnp.stack([row[0] for row in alone]), atol=5e-4)
    assert [int(n) for n in steps] == [int(row[3]) for row in alone]
    allowed = flow.bijector.blocks * np.asarray(steps) if nested else np.zeros(3)
    assert np.all(np.abs(np.asarray(evaluations) - [int(row[2]) for row in alone]) <= allowed)


def assert_reports_failure(solver):
    flow, params, observation, y_observed, x_hidden = singular_problem()
    solution, info = jit(lambda *a: solver(flow, *a, None))(params, observation, y_observed, x_hidden)
    assert not bool(info.converged)
    assert float(info.residual) > 1e-2
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(solution))
    assert int(info.evaluations) > 0
