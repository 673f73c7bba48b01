"""EMFlow (Ma and Ghosh 2021): a RealNVP whose base is one Gaussian, fitted by online expectation maximisation.

A batch of completed rows x has latents z = g(x), of which the entries at the row's observed positions are taken as observed:

    z_m <- E[ z_m | z_o; mu, Sigma ],   (mu, Sigma) <- (1 - r_t) (mu, Sigma) + r_t (moments of the batch),   r_t = C t^-gamma

with the conditional covariances in the batch's moments. Then x' = f(z) of the completed latents, the holes take x'_m, and the
flow takes a step on -mean log p(x) before, and on -mean log p(x') + alpha mean sum_o (x' - x)^2 after; p has the base
N(mu, Sigma). A test row is completed by the same map from its first filling, ``rounds`` times.

The weight alpha, C and gamma of the authors' runs are not in what we could read; the defaults here are ours.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.systems.imputed import Imputed, checked, initial_filling, minibatches
from benchmarks.systems.realnvp import RealNvp, decode, encode, fresh

# added to the diagonal of every covariance that is factorised, of latents of unit scale
JITTER = 1e-3


def conditional(mean: jax.Array, covariance: jax.Array, z: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E[z | z_o], (d,), and Cov[z | z_o], (d, d), zero where observed. Cost: two d^3 operations whatever the mask."""
    seen = mask.astype(z.dtype)
    # observed block, bordered by an identity: one shape for every mask
    block = covariance * seen * seen[:, None] + jnp.diag(1.0 - seen) + JITTER * jnp.diag(seen)
    factor = jax.scipy.linalg.cho_factor(block, lower=True)
    gain = jax.scipy.linalg.cho_solve(factor, seen[:, None] * covariance).T
    centre = mean + gain @ (seen * (z - mean))
    left = covariance - gain @ (seen[:, None] * covariance)
    hidden = 1.0 - seen
    return jnp.where(mask, z, centre), left * hidden * hidden[:, None]


def _negative_log_prob(flow: RealNvp, params: Any, mean: jax.Array, factor: jax.Array, x: jax.Array) -> jax.Array:
    z, log_det = encode(flow, params, x)
    white = jax.scipy.linalg.solve_triangular(factor, (z - mean).T, lower=True)
    log_volume = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return jnp.mean(0.5 * jnp.sum(white**2 + math.log(2 * math.pi), axis=0) + log_volume - log_det)


def _factor(covariance: jax.Array) -> jax.Array:
    return jnp.linalg.cholesky(covariance + JITTER * jnp.eye(len(covariance)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    flow: RealNvp, optimizer: Any, at_once: int, state: Any, rate: jax.Array, alpha: jax.Array, x: jax.Array, mask: jax.Array
) -> tuple[Any, jax.Array]:
    params, inner, mean, covariance = state
    gradient = jax.grad(lambda p: _negative_log_prob(flow, p, mean, _factor(covariance), x))(params)
    updates, inner = optimizer.update(gradient, inner)
    params = optax.apply_updates(params, updates)

    z, _ = encode(flow, params, x)
    z, spread = jax.lax.map(lambda pair: conditional(mean, covariance, *pair), (z, mask), batch_size=at_once)
    centre = z.mean(axis=0)
    local = (z - centre).T @ (z - centre) / len(z) + spread.mean(axis=0)
    mean, covariance = (1 - rate) * mean + rate * centre, (1 - rate) * covariance + rate * local

    def after(p: Any) -> tuple[jax.Array, jax.Array]:
        again = decode(flow, p, z)
        error = jnp.mean(jnp.sum(jnp.where(mask, again - x, 0.0) ** 2, axis=-1))
        return _negative_log_prob(flow, p, mean, _factor(covariance), again) + alpha * error, again

    gradient, again = jax.grad(after, has_aux=True)(params)
    updates, inner = optimizer.update(gradient, inner)
    params = optax.apply_updates(params, updates)
    return (params, inner, mean, covariance), jnp.where(mask, x, jnp.clip(again, 0.0, 1.0))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _complete(
    flow: RealNvp, at_once: int, params: Any, mean: jax.Array, covariance: jax.Array, x: jax.Array, mask: jax.Array
) -> jax.Array:
    z, _ = encode(flow, params, x)
    z = jax.lax.map(lambda pair: conditional(mean, covariance, *pair)[0], (z, mask), batch_size=at_once)
    return jnp.where(mask, x, jnp.clip(decode(flow, params, z), 0.0, 1.0))


def impute(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    epochs: int = 200,
    batch_size: int = 256,
    learning_rate: float = 1e-4,
    alpha: float = 100.0,
    scale: float = 0.5,
    decay: float = 0.6,
    rounds: int = 5,
    at_once: int = 1,
    pairs: int = 3,
    image_shape: tuple[int, int] | None = None,
) -> Imputed:
    """Train and complete; no draws.

    Args:
        key: of parameters, fillings and batches.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        epochs, batch_size, learning_rate: of Adam.
        alpha: weight of the observed entries' squared error.
        scale, decay: C and gamma of the online steps.
        rounds: completions of a test row, each from the last.
        at_once: rows whose d x d matrices are held in memory together: more where a GPU factorises batches.
        pairs: of couplings of the flow.
        image_shape: (height, width) of images, whose holes first take a near pixel; None for tables.

    Cost: two factorisations of d x d and two products for every row of a batch, whatever the mask.
    """
    train, train_mask = checked(train_rows, train_mask)
    test, test_mask = checked(test_rows, test_mask)
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    filled = initial_filling(seed, train, train_mask, (train, train_mask), image_shape)
    size = train.shape[1]
    flow, optimizer = RealNvp(size, pairs, seed), optax.adam(learning_rate)
    params = fresh(flow, key)
    state = params, optimizer.init(params), jnp.zeros(size), jnp.eye(size)
    steps, began = 0, time.perf_counter()
    for epoch in range(epochs):
        for batch in minibatches(seed + epoch, len(train), batch_size):
            steps += 1
            rate = scale * steps**-decay
            state, again = _step(flow, optimizer, at_once, state, rate, alpha, filled[batch], train_mask[batch])
            filled[batch] = again
    seconds = time.perf_counter() - began
    done = initial_filling(seed + 1, test, test_mask, (train, train_mask), image_shape)
    params, _, mean, covariance = state
    for _ in range(rounds):
        done = np.asarray(_complete(flow, at_once, params, mean, covariance, done, test_mask))
    return Imputed(done, None, seconds, steps)
