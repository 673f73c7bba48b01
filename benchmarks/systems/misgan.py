"""MisGAN (Li, Jiang and Marlin, ICLR 2019): generators of data, of masks and of completions, each against a critic.

With (x, m) a row and its mask, u ~ U(0, 1), fake data X = G_x(e), fake masks M = G_m(e'), completions I = G_i(x m + u (1 - m)):

    D_x tells x m from X M,   D_m tells m from M,   D_i tells X from x m + I (1 - m)

by Wasserstein critics with gradient penalty 10, updated at every batch. At every fifth batch the generators descend

    G_m: L_m + 0.1 L_x,   G_x: L_x,   G_i: L_i,   L_x = -mean D_x(X M),  L_m = -mean D_m(M),  L_i = -mean D_i(x m + I (1 - m)).

(The authors' code adds beta L_i to G_x's loss, but as it is written there L_i does not depend on G_x.) Networks are dense:
those of the authors' dense option where we could read them (critics 512-256-128, imputer d-d), and generators 256-512.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.systems.imputed import Imputed, checked, minibatches

LATENT = 128
# of the imputer's layers, which on images are as wide as the image
LEAST_WIDTH = 64
PENALTY = 10.0
ALPHA = 0.1
CRITIC_STEPS = 5
# of the mask generator's sigmoid, and the range to which it is stretched and then clipped
TEMPERATURE, STRETCHED = 0.66, (-0.1, 1.1)


class Layers(nn.Module):
    """Linear maps of these widths with ReLU between them."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) to (..., widths[-1])."""
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


def _networks(size: int) -> dict[str, Layers]:
    width = max(size, LEAST_WIDTH)
    critic, generator, imputer = Layers((512, 256, 128, 1)), Layers((256, 512, size)), Layers((width, width, size))
    return {
        "data": generator, "mask": generator, "imputer": imputer,
        "data_critic": critic, "mask_critic": critic, "imputer_critic": critic,
    }  # fmt: skip


def _data(size: int, params: Any, noise: jax.Array) -> jax.Array:
    return nn.sigmoid(_networks(size)["data"].apply(params["data"], noise))


def _mask(size: int, params: Any, noise: jax.Array) -> jax.Array:
    low, high = STRETCHED
    soft = nn.sigmoid(_networks(size)["mask"].apply(params["mask"], noise) / TEMPERATURE)
    return jnp.clip(low + (high - low) * soft, 0.0, 1.0)


def _imputed(size: int, params: Any, x: jax.Array, m: jax.Array, noise: jax.Array) -> jax.Array:
    return nn.sigmoid(_networks(size)["imputer"].apply(params["imputer"], x * m + noise * (1 - m)))


def _critic(size: int, name: str, params: Any, t: jax.Array) -> jax.Array:
    return _networks(size)[name].apply(params[name], t)[..., 0]


def _critic_loss(critic: Callable[[jax.Array], jax.Array], key: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
    between = jax.random.uniform(key, (len(real), 1))
    slopes = jax.vmap(jax.grad(lambda t: critic(t)))(between * real + (1 - between) * fake)
    norms = jnp.sqrt(jnp.sum(slopes**2, axis=-1) + 1e-12)
    return jnp.mean(critic(fake)) - jnp.mean(critic(real)) + PENALTY * jnp.mean((norms - 1.0) ** 2)


def _drawn(key: jax.Array, size: int, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    k_data, k_mask, k_noise = jax.random.split(key, 3)
    latents = (jax.random.normal(k, (count, LATENT)) for k in (k_data, k_mask))
    return *latents, jax.random.uniform(k_noise, (count, size))


def _update(optimizer: Any, names: tuple[str, ...], state: Any, gradient: Any) -> Any:
    params, inner = state
    updates = {name: optimizer[name].update(gradient[name], inner[name]) for name in names}
    params = params | {name: optax.apply_updates(params[name], updates[name][0]) for name in names}
    return params, inner | {name: updates[name][1] for name in names}


def _optimizers(rate: Any) -> dict[str, Any]:
    slow, fast = (optax.adam(times * rate, b1=0.5, b2=0.9) for times in (1, 2))
    return {
        "data": slow, "mask": slow, "imputer": fast, "data_critic": slow, "mask_critic": slow, "imputer_critic": fast,
    }  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _critics_step(size: int, rate: float, state: Any, key: jax.Array, x: jax.Array, m: jax.Array) -> Any:
    k_noise, *k_critics = jax.random.split(key, 4)
    e_data, e_mask, noise = _drawn(k_noise, size, len(x))
    fake, fake_mask = _data(size, state[0], e_data), _mask(size, state[0], e_mask)
    completed = x * m + _imputed(size, state[0], x, m, noise) * (1 - m)

    def loss(params: Any) -> jax.Array:
        pairs = {"data_critic": (x * m, fake * fake_mask), "mask_critic": (m, fake_mask), "imputer_critic": (fake, completed)}
        return sum(
            _critic_loss(functools.partial(_critic, size, name, params), k, *pair)
            for k, (name, pair) in zip(k_critics, pairs.items(), strict=True)
        )

    return _update(_optimizers(rate), ("data_critic", "mask_critic", "imputer_critic"), state, jax.grad(loss)(state[0]))


@functools.partial(jax.jit, static_argnums=0)
def _generators_step(size: int, rate: float, state: Any, key: jax.Array, x: jax.Array, m: jax.Array) -> Any:
    e_data, e_mask, noise = _drawn(key, size, len(x))

    def losses(params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        fake, fake_mask = _data(size, params, e_data), _mask(size, params, e_mask)
        completed = x * m + _imputed(size, params, x, m, noise) * (1 - m)
        of_data = -jnp.mean(_critic(size, "data_critic", state[0], fake * fake_mask))
        of_mask = -jnp.mean(_critic(size, "mask_critic", state[0], fake_mask))
        return of_data, of_mask, -jnp.mean(_critic(size, "imputer_critic", state[0], completed))

    def of_mask(params: Any) -> jax.Array:
        data, mask, _ = losses(params)
        return mask + ALPHA * data

    gradient = {
        "mask": jax.grad(of_mask)(state[0])["mask"], "data": jax.grad(lambda p: losses(p)[0])(state[0])["data"],
        "imputer": jax.grad(lambda p: losses(p)[2])(state[0])["imputer"],
    }  # fmt: skip
    return _update(_optimizers(rate), ("mask", "data", "imputer"), state, gradient)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _draw(size: int, params: Any, num_samples: int, key: jax.Array, x: jax.Array, m: jax.Array) -> jax.Array:
    noise = jax.random.uniform(key, (len(x), num_samples, size))
    return _imputed(size, params, x[:, None], m[:, None], noise)


def impute(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    epochs: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    num_samples: int = 16,
) -> Imputed:
    """Train and complete: the mean of the draws, and the draws, with the observed entries pasted in.

    Args:
        key: of parameters, batches and noise.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        epochs: the authors' are 1000 for the imputer.
        batch_size: theirs.
        learning_rate: of Adam, twice that for the imputer and its critic; the default is theirs.
        num_samples: draws a test row.
    """
    train, train_mask = checked(train_rows, train_mask)
    test, test_mask = checked(test_rows, test_mask)
    size = train.shape[1]
    k_init, k_steps, k_draws = jax.random.split(key, 3)
    inputs = {"data": LATENT, "mask": LATENT}
    params = {
        name: network.init(k, jnp.zeros((1, inputs.get(name, size))))
        for k, (name, network) in zip(jax.random.split(k_init, 6), _networks(size).items(), strict=True)
    }
    state = params, {name: optimizer.init(params[name]) for name, optimizer in _optimizers(learning_rate).items()}
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    steps, began = 0, time.perf_counter()
    for epoch in range(epochs):
        for batch in minibatches(seed + epoch, len(train), batch_size):
            steps += 1
            x, m = train[batch], train_mask[batch].astype(np.float32)
            k_critics, k_generators = jax.random.split(jax.random.fold_in(k_steps, steps))
            state = _critics_step(size, learning_rate, state, k_critics, x, m)
            if steps % CRITIC_STEPS == 0:
                state = _generators_step(size, learning_rate, state, k_generators, x, m)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - began
    drawn = np.asarray(_draw(size, state[0], num_samples, k_draws, test, test_mask.astype(np.float32)))
    samples = np.where(test_mask[:, None], test[:, None], drawn)
    return Imputed(np.where(test_mask, test, samples.mean(axis=1)), samples, seconds, steps)
