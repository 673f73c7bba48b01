"""GAIN (Yoon, Jordon and van der Schaar, ICML 2018): a generator fills holes, a discriminator guesses which entries are filled.

With mask m, noise u ~ U(0, 0.01) and hint h = m b, b ~ Bernoulli(0.9) for every entry alone:

    x~ = m x + (1 - m) u,   g = G(x~, m),   x^ = m x + (1 - m) g,   p = D(x^, h)
    L_D = -mean[ m log p + (1 - m) log(1 - p) ]
    L_G = -mean[ (1 - m) log p ] + alpha sum m (x - g)^2 / sum m

A step descends L_D in D, then L_G in G against the new D, on the same batch, noise and hints. G and D are three linear maps as
wide as the event with ReLU between and a sigmoid at the end; first weights are N(0, 2 / inputs). All this and the defaults are
those of the authors' published code, which sets h = 0 where the paper's formula has 1/2. A draw is G at fresh noise, the mean
that of the draws; as the noise is small, so is their spread.

It is written here because the one installable package with GAIN, hyperimpute, has had no release since February 2023 and pins
an old loguru and TensorFlow.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.systems.imputed import Imputed, checked, of_draws
from benchmarks.systems.perceptron import Perceptron
from benchmarks.systems.training_scan import batch_order, trained

NOISE = 0.01
KERNEL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class State(NamedTuple):
    """Parameters and optimiser states of both networks."""

    generator: Any
    discriminator: Any
    generator_moments: Any
    discriminator_moments: Any


def hints(key: jax.Array, mask: jax.Array, rate: float) -> jax.Array:
    """h = m b with b ~ Bernoulli(rate) for every entry."""
    return mask * jax.random.bernoulli(key, rate, mask.shape)


def discriminator_loss(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """L_D of the logits of p."""
    return optax.sigmoid_binary_cross_entropy(logits, mask).mean()


def generator_loss(logits: jax.Array, mask: jax.Array, x: jax.Array, g: jax.Array, alpha: float) -> jax.Array:
    """L_G of the logits of p at g."""
    error = jnp.sum(mask * (x - g) ** 2) / jnp.maximum(mask.sum(), 1.0)
    return -jnp.mean((1 - mask) * jax.nn.log_sigmoid(logits)) + alpha * error


def _generated(generator: Perceptron, params: Any, key: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
    noise = NOISE * jax.random.uniform(key, x.shape)
    return jax.nn.sigmoid(generator.apply(params, jnp.concatenate([jnp.where(mask > 0, x, noise), mask], axis=-1)))


def impute(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    steps: int = 10_000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    hint_rate: float = 0.9,
    alpha: float = 100.0,
    hidden: int | None = None,
    num_samples: int = 16,
) -> Imputed:
    """Train, and complete by draws of fresh noise.

    Args:
        key: of parameters, batches, noise, hints and draws.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        steps, batch_size, learning_rate: of Adam for both networks.
        hint_rate: chance that an observed entry is told to the discriminator.
        alpha: weight of the observed entries' squared error.
        hidden: width of the hidden layers; as wide as the event when None.
        num_samples: draws a test row.
    """
    train, train_mask = checked(train_rows, train_mask)
    test, test_mask = checked(test_rows, test_mask)
    size = train.shape[1]
    network, optimizer = Perceptron((hidden or size, hidden or size, size), KERNEL), optax.adam(learning_rate)

    def step(state: State, key: jax.Array, x: jax.Array, seen: jax.Array) -> State:
        k_noise, k_hint = jax.random.split(key)
        mask = seen.astype(x.dtype)
        hint = hints(k_hint, mask, hint_rate)

        def guessed(discriminator: Any, g: jax.Array) -> jax.Array:
            return network.apply(discriminator, jnp.concatenate([jnp.where(seen, x, g), hint], axis=-1))

        g = _generated(network, state.generator, k_noise, x, mask)
        gradient = jax.grad(lambda p: discriminator_loss(guessed(p, g), mask))(state.discriminator)
        updates, discriminator_moments = optimizer.update(gradient, state.discriminator_moments)
        discriminator = optax.apply_updates(state.discriminator, updates)

        def loss(generator: Any) -> jax.Array:
            g = _generated(network, generator, k_noise, x, mask)
            return generator_loss(guessed(discriminator, g), mask, x, g, alpha)

        updates, generator_moments = optimizer.update(jax.grad(loss)(state.generator), state.generator_moments)
        return State(optax.apply_updates(state.generator, updates), discriminator, generator_moments, discriminator_moments)

    k_generator, k_discriminator, k_order, k_train, k_draw = jax.random.split(key, 5)
    began = time.perf_counter()
    generator, discriminator = (network.init(k, jnp.zeros((1, 2 * size))) for k in (k_generator, k_discriminator))
    state = State(generator, discriminator, optimizer.init(generator), optimizer.init(discriminator))
    order = batch_order(k_order, len(train), batch_size, steps)
    state = jax.block_until_ready(trained(step, state, k_train, train, train_mask, order))
    seconds = time.perf_counter() - began

    draw = jax.jit(lambda k: _generated(network, state.generator, k, test, test_mask.astype(test.dtype)))
    draws = [np.asarray(draw(k)) for k in jax.random.split(k_draw, num_samples)]
    return of_draws(draws, test, test_mask, seconds, steps)
