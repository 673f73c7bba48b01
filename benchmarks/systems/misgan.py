"""MisGAN (Li, Jiang and Marlin, ICLR 2019): generators of data and of masks, an imputer, and a Wasserstein critic for each.

With rows x and masks m of the training set, z and e of N(0, I), u ~ U(0, 1) in every entry, x' = G_x(z), m' = G_m(e) and the
completion x^ = m x + (1 - m) G_i(m x + (1 - m) u):

    W_x = E D_x(m x) - E D_x(m' x'),   W_m = E D_m(m) - E D_m(m'),   W_i = E D_i(x') - E D_i(x^)

A step ascends W - 10 P in every critic, five times, each on a batch of its own, with the gradient penalty of its pair (a, b)

    P = E( |grad D(t a + (1 - t) b)| - 1 )^2,   t ~ U(0, 1)

and then, on the last batch, descends W_m + alpha W_x in G_m, W_x + beta W_i in G_x and W_i in G_i. A draw is a completion at
fresh noise u, the mean that of the draws.

Networks are dense, as the authors' fully connected variants (their MNIST runs have convolutions in all but the imputer):
generators of 256 and 512, critics of 512, 256 and 128 hidden units, an imputer of three hidden layers as wide as the event;
ReLU between, a sigmoid at the end; that of masks is the authors' "fusion", clip(1.2 sigmoid(. / 0.66) - 0.1, 0, 1). These,
the defaults and Adam(0.5, 0.9), twice as fast for the imputer and its critic, are those of the authors' published code for
imputation. There the term with beta has no gradient in G_x, which leaves it without effect; here it is as in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.systems.imputed import Imputed, checked, of_draws
from benchmarks.systems.perceptron import Perceptron
from benchmarks.systems.training_scan import Step, batch_order, trained

TEMPERATURE = 0.66
PENALTY = 10.0
CRITIC_STEPS = 5
# PyTorch's first weights: uniform, of variance 1 / (3 inputs)
KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
PARTS = ("data", "mask", "imputer")


class Networks(NamedTuple):
    """Of each of `PARTS` a generator, and one form of critic, whose parameters are stacked in that order.

    Attributes:
        generators: what is before their last nonlinearity.
        critic: of one output.
        latent: entries of z and e.
    """

    generators: dict[str, Perceptron]
    critic: Perceptron
    latent: int

    def said(self, critics: Any, x: jax.Array) -> jax.Array:
        """What D_x, D_m and D_i say: (3, ..., d) to (3, ...)."""
        return jax.vmap(self.critic.apply)(critics, x)[..., 0]


class Made(NamedTuple):
    """What the generators make of noise and of a batch, (n, d): x', m' and x^."""

    data: jax.Array
    mask: jax.Array
    completed: jax.Array


def gradient_penalty(
    critic: Callable[[jax.Array], jax.Array], key: jax.Array, first: jax.Array, second: jax.Array
) -> jax.Array:
    """P over rows between ``first`` and ``second``, (n, d); ``critic``: (d,) to a scalar."""
    along = jax.random.uniform(key, (len(first), 1))
    gradients = jax.vmap(jax.grad(critic))(along * first + (1 - along) * second)
    # at a gradient of zero the norm has none; PyTorch takes 0, and so does this
    return jnp.mean((optax.safe_norm(gradients, 1e-12, axis=-1) - 1.0) ** 2)


def _completed(networks: Networks, params: Any, key: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
    holed = jnp.where(mask > 0, x, jax.random.uniform(key, x.shape))
    return jnp.where(mask > 0, x, jax.nn.sigmoid(networks.generators["imputer"].apply(params["imputer"], holed)))


def _made(networks: Networks, params: Any, key: jax.Array, x: jax.Array, mask: jax.Array) -> Made:
    k_latent, k_impute = jax.random.split(key)
    z, e = jax.random.normal(k_latent, (2, len(x), networks.latent))
    data = jax.nn.sigmoid(networks.generators["data"].apply(params["data"], z))
    soft = jax.nn.sigmoid(networks.generators["mask"].apply(params["mask"], e) / TEMPERATURE)
    return Made(data, jnp.clip(1.2 * soft - 0.1, 0.0, 1.0), _completed(networks, params, k_impute, x, mask))


def _critics_loss(networks: Networks, critics: Any, key: jax.Array, x: jax.Array, mask: jax.Array, made: Made) -> jax.Array:
    """Sum of 10 P - W over the critics."""
    first = jnp.stack([mask * x, mask, made.data])
    second = jnp.stack([made.mask * made.data, made.mask, made.completed])
    gap = networks.said(critics, second) - networks.said(critics, first)

    def penalty(critic: Any, key: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return gradient_penalty(lambda t: networks.critic.apply(critic, t)[0], key, first, second)

    penalties = jax.vmap(penalty)(critics, jax.random.split(key, len(first)), first, second)
    return jnp.sum(gap.mean(axis=-1) + PENALTY * penalties)


def _generators_loss(networks: Networks, critics: Any, made: Made, alpha: float, beta: float) -> jax.Array:
    """One sum whose gradient in each generator is that of its own loss."""
    hold = jax.lax.stop_gradient
    with_data = jnp.stack([hold(made.mask) * made.data, made.mask, made.completed])
    with_mask = jnp.stack([made.mask * hold(made.data), made.mask, made.data])
    of_mask, _, of_data = networks.said(critics, with_mask).mean(axis=-1)
    return beta * of_data - alpha * of_mask - networks.said(critics, with_data).mean(axis=-1).sum()


def _optimizers(learning_rate: float) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Of generators and of critics: Adam, at twice the rate for the imputer and its critic."""
    once, twice = (optax.adam(rate, b1=0.5, b2=0.9) for rate in (learning_rate, 2 * learning_rate))
    of_generators = optax.multi_transform({"once": once, "twice": twice}, {"data": "once", "mask": "once", "imputer": "twice"})
    faster = optax.stateless(lambda updates, _: jax.tree.map(lambda t: t.at[PARTS.index("imputer")].multiply(2.0), updates))
    return of_generators, optax.chain(once, faster)


def _descended(optimizer: optax.GradientTransformation, loss: Callable[[Any], jax.Array], params: Any, moments: Any) -> Any:
    updates, moments = optimizer.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, updates), moments


def _step(networks: Networks, of_generators: Any, of_critics: Any, alpha: float, beta: float) -> Step:
    """Of batches, (CRITIC_STEPS, n, d): a step of every critic on each, and one of every generator on the last."""

    def step(state: Any, key: jax.Array, rows: jax.Array, masks: jax.Array) -> Any:
        (generators, moments), critics = state
        masks = masks.astype(rows.dtype)

        def critic_step(critics: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
            key, x, mask = batch
            k_made, k_penalty = jax.random.split(key)
            made = _made(networks, generators, k_made, x, mask)
            return _descended(of_critics, lambda p: _critics_loss(networks, p, k_penalty, x, mask, made), *critics), None

        k_critics, k_last = jax.random.split(key)
        critics, _ = jax.lax.scan(critic_step, critics, (jax.random.split(k_critics, len(rows)), rows, masks))

        def loss(generators: Any) -> jax.Array:
            return _generators_loss(networks, critics[0], _made(networks, generators, k_last, rows[-1], masks[-1]), alpha, beta)

        return _descended(of_generators, loss, generators, moments), critics

    return step


def _begun(networks: Networks, key: jax.Array, size: int) -> tuple[Any, Any]:
    """First parameters of generators and critics."""
    k_critics, *keys = jax.random.split(key, 1 + len(PARTS))
    inputs = {"data": networks.latent, "mask": networks.latent, "imputer": size}
    generators = {
        name: networks.generators[name].init(k, jnp.zeros((1, inputs[name]))) for name, k in zip(PARTS, keys, strict=True)
    }
    return generators, jax.vmap(lambda k: networks.critic.init(k, jnp.zeros(size)))(jax.random.split(k_critics, len(PARTS)))


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
    alpha: float = 0.1,
    beta: float = 0.1,
    latent: int = 128,
    hidden: tuple[int, ...] = (256, 512),
    critic_hidden: tuple[int, ...] = (512, 256, 128),
    imputer_hidden: tuple[int, ...] | None = None,
    num_samples: int = 16,
) -> Imputed:
    """Train all six networks together, and complete by draws of fresh noise.

    Args:
        key: of parameters, batches, noise and draws.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        epochs: over the batches of the critics, five of which are a step.
        batch_size, learning_rate: of Adam; the imputer and its critic go at twice this rate.
        alpha: weight of W_x in the mask generator's loss.
        beta: weight of W_i in the data generator's loss.
        latent: entries of z and e.
        hidden, critic_hidden, imputer_hidden: widths; three layers as wide as the event for the imputer when None.
        num_samples: draws a test row.
    """
    train, train_mask = checked(train_rows, train_mask)
    test, test_mask = checked(test_rows, test_mask)
    size = train.shape[1]
    widths = {"data": hidden, "mask": hidden, "imputer": imputer_hidden or (size,) * 3}
    generators = {name: Perceptron((*widths[name], size), KERNEL) for name in PARTS}
    networks = Networks(generators, Perceptron((*critic_hidden, 1), KERNEL), latent)
    of_generators, of_critics = _optimizers(learning_rate)
    k_begin, k_order, k_train, k_draw = jax.random.split(key, 4)
    steps = max(1, epochs * (len(train) // min(batch_size, len(train))) // CRITIC_STEPS)
    began = time.perf_counter()
    params, critics = _begun(networks, k_begin, size)
    order = batch_order(k_order, len(train), batch_size, steps * CRITIC_STEPS)
    order = order.reshape(steps, CRITIC_STEPS, -1)
    state = (params, of_generators.init(params)), (critics, of_critics.init(critics))
    state = trained(_step(networks, of_generators, of_critics, alpha, beta), state, k_train, train, train_mask, order)
    (params, _), _ = jax.block_until_ready(state)
    seconds = time.perf_counter() - began

    draw = jax.jit(lambda k: _completed(networks, params, k, test, test_mask.astype(test.dtype)))
    draws = [np.asarray(draw(k)) for k in jax.random.split(k_draw, num_samples)]
    return of_draws(draws, test, test_mask, seconds, steps)
