"""Flows whose conditionals are known, for benchmarks and tests of posteriors."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows import adapters, flows
from jaxflows.log_det.estimators import exact

# clipswish(t) and clipswish(-t) differ by exactly this multiple of t, which makes a residual block linear
SLOPE = 1.0 / (1.1 * 1.004)


def linear_flow(size: int, seed: int, *, blocks: int = 3, coeff: float = 0.3) -> tuple[flows.Flow, Any]:
    """A residual flow x = g(y) that is exactly affine, with random matrices of norm ``coeff`` in its blocks.

    Returns:
        ``(flow, params)``; the Jacobian G is ``jax.jacfwd(flow.encode, argnums=1)`` anywhere.
    """
    flow = flows.residual(event_shape=(size,), blocks=blocks, hidden=size, activation="clipswish")
    rng = np.random.default_rng(seed)
    affine, stack = flow.init(jax.random.key(seed))
    first, second = (dict(part) for part in stack)
    matrices = rng.standard_normal((blocks, size, size))
    matrices *= coeff / np.linalg.norm(matrices, ord=2, axis=(1, 2))[:, None, None]
    dtype = first["weight"].dtype
    first["weight"] = jnp.asarray(np.broadcast_to(np.eye(size), matrices.shape), dtype)
    second["weight"] = jnp.asarray(np.concatenate([matrices, -matrices], axis=1) / SLOPE, dtype)
    second["bias"] = jnp.asarray(0.3 * rng.standard_normal((blocks, size)), dtype)
    return flow, (affine, [first, second])


def gaussian_of(flow: flows.Flow, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of an affine flow's flattened events, in float64."""
    zero = jnp.zeros(flow.event_shape)
    jacobian = np.asarray(jax.jacfwd(functools.partial(flow.encode, params))(zero), np.float64)
    inverse = np.linalg.inv(jacobian.reshape(flow.size, flow.size))
    return -inverse @ np.asarray(flow.encode(params, zero), np.float64).reshape(-1), inverse @ inverse.T


def conditional_of(
    mean: np.ndarray, covariance: np.ndarray, observed: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the hidden entries given the observed ones, by the Schur complement."""
    hidden = ~observed
    gain = np.linalg.solve(covariance[np.ix_(observed, observed)], covariance[np.ix_(observed, hidden)]).T
    centre = mean[hidden] + gain @ (values[observed] - mean[observed])
    return centre, covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(observed, hidden)]


def moons(key: jax.Array, count: int) -> jax.Array:
    """Two noisy half circles, (count, 2)."""
    k_angle, k_side, k_noise = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(k_angle, (count,))
    side = jax.random.bernoulli(k_side, 0.5, (count,))
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    lower = jnp.stack([1 - jnp.cos(angle), 0.5 - jnp.sin(angle)], axis=1)
    return jnp.where(side[:, None], upper, lower) + 0.15 * jax.random.normal(k_noise, (count, 2))


def plane_flow(seed: int, *, steps: int = 1500) -> tuple[flows.Flow, Any]:
    """A 2-D residual flow trained on `moons` by exact maximum likelihood: its conditionals are bent and can have two modes."""
    flow = flows.residual(event_shape=(2,), blocks=8, hidden=32, coeff=0.9)
    key = jax.random.key(seed)
    params = flow.bijector.fit_to_data(flow.init(key), moons(key, 1000))
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def loss(params: Any, k: jax.Array) -> jax.Array:
        y = moons(k, 256)
        values = jax.vmap(lambda t: flow.estimate_log_prob(k, params, t, exact()).value)(y)
        return -jnp.mean(values)

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, k: jax.Array) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, k), state)
            return (flow.bijector.constrain(optax.apply_updates(params, updates)), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]

    return flow, train(params)


def matrix_flow(event_shape: tuple[int, ...], seed: int, *, spread: tuple[float, float] = (0.6, 1.4)) -> tuple[flows.Flow, Any]:
    """An affine flow explicit both ways, y = mean + M x with a random M: cheap for methods of many steps.

    Args:
        event_shape: any shape.
        seed: of M and the mean.
        spread: least and largest singular value of M; the further apart, the more the entries of an event tell of each other.
    """
    size = math.prod(event_shape)
    rng = np.random.default_rng(seed)
    rotations = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2)]
    matrix = rotations[0] * np.linspace(*spread, size) @ rotations[1]
    arrays = {"mean": 0.5 * rng.standard_normal(size), "matrix": matrix, "inverse": np.linalg.inv(matrix)}
    volume = float(np.linalg.slogdet(matrix)[1])
    return adapters.from_functions(
        event_shape=event_shape,
        encode=lambda p, y: (p["inverse"] @ (y.reshape(-1) - p["mean"])).reshape(event_shape),
        decode=lambda p, x: (p["mean"] + p["matrix"] @ x.reshape(-1)).reshape(event_shape),
        log_det=lambda p, y: jnp.full((), -volume, y.dtype),
        params={name: jnp.asarray(value, jnp.result_type(float)) for name, value in arrays.items()},
    )


def measured_of(
    mean: np.ndarray, covariance: np.ndarray, matrix: np.ndarray, sigma: Any, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log-evidence log p(b) of y ~ N(mean, covariance) given b = A y + sigma e; sigma may be 0."""
    noise = np.diag(np.broadcast_to(np.asarray(sigma, float), matrix.shape[:1]) ** 2)
    spread = matrix @ covariance @ matrix.T + noise
    gain = np.linalg.solve(spread, matrix @ covariance).T
    gap = values - matrix @ mean
    evidence = -0.5 * gap @ np.linalg.solve(spread, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * spread)[1]
    return mean + gain @ gap, covariance - gain @ matrix @ covariance, float(evidence)
