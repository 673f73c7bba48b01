"""MIWAE (Mattei and Frellsen, ICML 2019): a variational autoencoder fitted to what is observed, by importance weighting.

With p(z) = N(0, I), a decoder p(x | z) that is independent over entries, and an encoder q(z | x_o) = N(mu, diag sigma^2) that
sees zeros in the holes, training ascends the bound of the mean log-likelihood of the observed entries

    L_K = mean over rows of E log (1/K) sum_k w_k,   w_k = p(x_o | z_k) p(z_k) / q(z_k | x_o),   z_1, ..., z_K ~ q(z | x_o)

A test row takes L latents: its mean is sum_l w_l E[x_m | z_l] / sum_l w_l (self-normalised importance sampling), a draw is
x_m ~ p(x_m | z_l) with l of chance w_l / sum w (sampling-importance-resampling).

The observation model is the authors' for tables, Student's t with location, scale > 0.001 and degrees of freedom > 3 of every
entry, on columns standardised by their observed entries; or the authors' for MNIST, Bernoulli, here with the cross-entropy of
pixels in [0, 1] and draws of 0 and 1. The other defaults are those of the authors' notebooks and, for latent and proposals, of
their tables of UCI data: encoder and decoder of two hidden layers of 128 ReLU, He's first weights, Adam at 0.001, K = 20.

It is written here because the one installable package with MIWAE, hyperimpute, has had no release since February 2023 and pins
an old loguru and TensorFlow.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm

from benchmarks.systems.imputed import Imputed, checked, of_draws
from benchmarks.systems.perceptron import Perceptron
from benchmarks.systems.training_scan import batch_order, trained

LEAST_SCALE = 1e-3
LEAST_FREEDOM = 3.0


class Observation(NamedTuple):
    """p(x | z), from what the decoder says of every entry.

    Attributes:
        outputs: of the decoder, an entry.
        standardised: whether rows are shifted and scaled by column.
        log_prob: (..., outputs, d) and (..., d) to (..., d).
        mean: (..., outputs, d) to (..., d).
        sample: key and (..., outputs, d) to (..., d).
    """

    outputs: int
    standardised: bool
    log_prob: Callable[[jax.Array, jax.Array], jax.Array]
    mean: Callable[[jax.Array], jax.Array]
    sample: Callable[[jax.Array, jax.Array], jax.Array]


class Model(NamedTuple):
    """The networks as functions.

    Attributes:
        encode: params and (..., d) to mean and scale of q, (..., latent).
        decode: params and (..., latent) to (..., outputs, d).
        observation: p(x | z).
    """

    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]
    observation: Observation


def _student(raw: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    location, scale, freedom = (raw[..., i, :] for i in range(3))
    return location, LEAST_SCALE + nn.softplus(scale), LEAST_FREEDOM + nn.softplus(freedom)


def _log_gamma_half_step(a: jax.Array) -> jax.Array:
    """log Gamma(a + 1/2) - log Gamma(a) for a > 3/2, to 1e-6: its series at a + 4, and the recurrence back to a.

    XLA's lgamma and its derivative would take most of a step's time and of its compilation.
    """
    x = a + 4
    series = 1 - 1 / (8 * x) + 1 / (128 * x**2) + 5 / (1024 * x**3) - 21 / (32768 * x**4)
    back = a / (a + 0.5) * (a + 1) / (a + 1.5) * (a + 2) / (a + 2.5) * (a + 3) / (a + 3.5)
    return jnp.log(jnp.sqrt(x) * series * back)


def _student_log_prob(raw: jax.Array, x: jax.Array) -> jax.Array:
    location, scale, freedom = _student(raw)
    peak = _log_gamma_half_step(freedom / 2) - 0.5 * jnp.log(jnp.pi * freedom) - jnp.log(scale)
    return peak - 0.5 * (freedom + 1) * jnp.log1p(((x - location) / scale) ** 2 / freedom)


def _student_sample(key: jax.Array, raw: jax.Array) -> jax.Array:
    location, scale, freedom = _student(raw)
    k_radius, k_angle = jax.random.split(key)
    # Bailey's polar method (1994), exact for every number of degrees of freedom
    radius = jnp.sqrt(freedom * jnp.expm1(-2 / freedom * jnp.log1p(-jax.random.uniform(k_radius, location.shape))))
    return location + scale * radius * jnp.cos(2 * jnp.pi * jax.random.uniform(k_angle, location.shape))


OBSERVATIONS = {
    "student": Observation(3, True, _student_log_prob, lambda raw: raw[..., 0, :], _student_sample),
    "bernoulli": Observation(
        1,
        False,
        lambda raw, x: -optax.sigmoid_binary_cross_entropy(raw[..., 0, :], x),
        lambda raw: nn.sigmoid(raw[..., 0, :]),
        lambda key, raw: jax.random.bernoulli(key, nn.sigmoid(raw[..., 0, :])).astype(raw.dtype),
    ),
}


def importance(
    model: Model, params: Any, key: jax.Array, x: jax.Array, mask: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """log w of ``count`` latents of q, (count, ...), and the decoder's outputs there, (count, ..., outputs, d); x: (..., d)."""
    centre, scale = model.encode(params, jnp.where(mask, x, 0.0))
    noise = jax.random.normal(key, (count, *centre.shape))
    z = centre + scale * noise
    raw = model.decode(params, z)
    of_data = jnp.sum(jnp.where(mask, model.observation.log_prob(raw, x), 0.0), axis=-1)
    of_latents = jnp.sum(norm.logpdf(z) - norm.logpdf(noise) + jnp.log(scale), axis=-1)
    return of_data + of_latents, raw


def bound(model: Model, params: Any, key: jax.Array, x: jax.Array, mask: jax.Array, count: int) -> jax.Array:
    """An unbiased estimate of every row's L_K, (...), with K = ``count``."""
    log_weights, _ = importance(model, params, key, x, mask, count)
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(count)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def completions(
    model: Model, params: Any, key: jax.Array, x: jax.Array, mask: jax.Array, proposals: int, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """E[x | x_o] by self-normalised weights, (n, d), and draws by resampling, (n, num_samples, d), a row after another."""

    def row(batch: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key, x, mask = batch
        k_propose, k_pick, k_draw = jax.random.split(key, 3)
        log_weights, raw = importance(model, params, k_propose, x, mask, proposals)
        weights = jax.nn.softmax(log_weights)
        picked = jax.random.choice(k_pick, proposals, (num_samples,), p=weights)
        return weights @ model.observation.mean(raw), model.observation.sample(k_draw, raw[picked])

    return jax.lax.map(row, (jax.random.split(key, len(x)), x, mask))


def _networks(size: int, latent: int, hidden: int, observation: Observation, key: jax.Array) -> tuple[Model, Any]:
    kernel = nn.initializers.he_normal()
    encoder = Perceptron((hidden, hidden, 2 * latent), kernel)
    decoder = Perceptron((hidden, hidden, observation.outputs * size), kernel)

    def encode(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        centre, scale = jnp.split(encoder.apply(params["encoder"], x), 2, axis=-1)
        return centre, nn.softplus(scale)

    def decode(params: Any, z: jax.Array) -> jax.Array:
        return decoder.apply(params["decoder"], z).reshape(*z.shape[:-1], observation.outputs, size)

    k_encoder, k_decoder = jax.random.split(key)
    params = {"encoder": encoder.init(k_encoder, jnp.zeros((1, size)))}
    return Model(encode, decode, observation), params | {"decoder": decoder.init(k_decoder, jnp.zeros((1, latent)))}


def _moments(rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the observed entries of every column; a constant column's deviation is 1."""
    count = np.maximum(mask.sum(axis=0), 1)
    centre = rows.sum(axis=0) / count
    spread = np.sqrt(np.sum(np.where(mask, rows - centre, 0.0) ** 2, axis=0) / count)
    return centre.astype(np.float32), np.where(spread > 0, spread, 1.0).astype(np.float32)


def impute(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    epochs: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    particles: int = 20,
    hidden: int = 128,
    latent: int = 10,
    observation: Literal["student", "bernoulli"] = "student",
    proposals: int = 10_000,
    num_samples: int = 16,
) -> Imputed:
    """Train, and complete by importance sampling; means and draws are clipped to [0, 1].

    Args:
        key: of parameters, batches, latents and draws.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        epochs, batch_size, learning_rate: of Adam.
        particles: K of the bound.
        hidden: width of the hidden layers.
        latent: entries of z.
        observation: "student" or "bernoulli".
        proposals: L, latents of a test row, whose decoded entries are held in memory together.
        num_samples: draws a test row.
    """
    train, train_mask = checked(train_rows, train_mask)
    test, test_mask = checked(test_rows, test_mask)
    law = OBSERVATIONS[observation]
    centre, spread = _moments(train, train_mask) if law.standardised else (np.float32(0.0), np.float32(1.0))
    optimizer = optax.adam(learning_rate)
    k_begin, k_order, k_train, k_draw = jax.random.split(key, 4)
    steps = epochs * (len(train) // min(batch_size, len(train)))
    began = time.perf_counter()
    model, params = _networks(train.shape[1], latent, hidden, law, k_begin)

    def step(state: tuple[Any, Any], key: jax.Array, x: jax.Array, mask: jax.Array) -> tuple[Any, Any]:
        params, moments = state
        gradient = jax.grad(lambda p: -bound(model, p, key, x, mask, particles).mean())(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments

    order = batch_order(k_order, len(train), batch_size, steps)
    state = trained(step, (params, optimizer.init(params)), k_train, (train - centre) / spread, train_mask, order)
    params, _ = jax.block_until_ready(state)
    seconds = time.perf_counter() - began

    mean, draws = completions(model, params, k_draw, (test - centre) / spread, test_mask, proposals, num_samples)
    mean, draws = (np.clip(np.asarray(part) * spread + centre, 0, 1) for part in (mean, draws))
    done = of_draws(list(np.moveaxis(draws, 1, 0)), test, test_mask, seconds, steps)
    return done._replace(mean=np.where(test_mask, test, mean))
