"""MisGAN (Li, Jiang and Marlin, ICLR 2019): generators of data and of masks, an imputer, and a Wasserstein critic for each.

With rows x and masks m of the training set, z and e of N(0, I), u ~ U(0, 1) in every entry, x' = G_x(z), m' = G_m(e) and the
completion x^ = m x + (1 - m) G_i(m x + (1 - m) u):

    W_x = E D_x(m x) - E D_x(m' x'),   W_m = E D_m(m) - E D_m(m'),   W_i = E D_i(x') - E D_i(x^)

A step ascends W - 10 P in every critic, five times, each on a batch of its own, with the gradient penalty of its pair (a, b)

    P = E( |grad D(t a + (1 - t) b)| - 1 )^2,   t ~ U(0, 1)

and then, on the last batch, descends W_m + alpha W_x in G_m, W_x + beta W_i in G_x and W_i in G_i. A draw is a completion at
fresh noise u, the mean that of the draws.

Networks are dense, as the authors' fully connected variants (their MNIST runs have convolutions in all but the imputer):
generators of 256 and 512, critics of 512, 256 and 128 hidden units, an imputer of three hidden layers as wide as the event, with
ReLU between and a sigmoid at the end; that of masks is the authors' "fusion", clip(1.2 sigmoid(. / 0.66) - 0.1, 0, 1). These,
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

Params = dict[str, Any]


class Networks(NamedTuple):
    """Of each of `PARTS` a generator and a critic.

    Attributes:
        generators: what is before their last nonlinearity.
        critics: of one output.
        latent: entries of z and e.
    """

    generators: dict[str, Perceptron]
    critics: dict[str, Perceptron]
    latent: int


class Pairs(NamedTuple):
    """What each critic tells apart: its own first, of which it is to say more."""

    data: tuple[jax.Array, jax.Array]
    mask: tuple[jax.Array, jax.Array]
    imputer: tuple[jax.Array, jax.Array]


def gradient_penalty(
    critic: Callable[[jax.Array], jax.Array], key: jax.Array, first: jax.Array, second: jax.Array
) -> jax.Array:
    """P over rows between ``first`` and ``second``, (n, d); ``critic``: (d,) to a scalar."""
    along = jax.random.uniform(key, (len(first), 1))
    gradients = jax.vmap(jax.grad(critic))(along * first + (1 - along) * second)
    # at a gradient of zero the norm has none; PyTorch takes 0, and so does this
    return jnp.mean((optax.safe_norm(gradients, 1e-12, axis=-1) - 1.0) ** 2)


def _completed(networks: Networks, params: Params, key: jax.Array, x: jax.Array, mask: jax.Array) -> jax.Array:
    holed = jnp.where(mask > 0, x, jax.random.uniform(key, x.shape))
    return jnp.where(mask > 0, x, jax.nn.sigmoid(networks.generators["imputer"].apply(params["imputer"], holed)))


def _pairs(networks: Networks, params: Params, key: jax.Array, x: jax.Array, mask: jax.Array) -> Pairs:
    """Of a batch; gradients flow into the generators by the losses of `_generators_loss`."""
    k_data, k_mask, k_impute = jax.random.split(key, 3)
    shape = (len(x), networks.latent)
    made = jax.nn.sigmoid(networks.generators["data"].apply(params["data"], jax.random.normal(k_data, shape)))
    of_mask = networks.generators["mask"].apply(params["mask"], jax.random.normal(k_mask, shape))
    made_mask = jnp.clip(1.2 * jax.nn.sigmoid(of_mask / TEMPERATURE) - 0.1, 0.0, 1.0)
    completed = _completed(networks, params, k_impute, x, mask)
    return Pairs((mask * x, made_mask * made), (mask, made_mask), (made, completed))


def _said(networks: Networks, critics: Params, name: str) -> Callable[[jax.Array], jax.Array]:
    return lambda t: networks.critics[name].apply(critics[name], t)[..., 0]


def _critics_loss(networks: Networks, critics: Params, key: jax.Array, pairs: Pairs) -> jax.Array:
    """Sum of 10 P - W over the critics."""
    total = jnp.zeros(())
    for name, k_penalty in zip(PARTS, jax.random.split(key, len(PARTS)), strict=True):
        (first, second), critic = getattr(pairs, name), _said(networks, critics, name)
        total += critic(second).mean() - critic(first).mean() + PENALTY * gradient_penalty(critic, k_penalty, first, second)
    return total


def _generators_loss(networks: Networks, critics: Params, pairs: Pairs, alpha: float, beta: float) -> jax.Array:
    """One sum whose gradient in each generator is that of its own loss."""
    data, mask, imputer = (_said(networks, critics, name) for name in PARTS)
    hold = jax.lax.stop_gradient
    (_, made_mask), (made, completed) = pairs.mask, pairs.imputer
    of_mask = -mask(made_mask).mean() - alpha * data(made_mask * hold(made)).mean()
    of_data = -data(hold(made_mask) * made).mean() + beta * imputer(made).mean()
    return of_mask + of_data - imputer(completed).mean()


def _step(networks: Networks, optimizer: optax.GradientTransformation, alpha: float, beta: float) -> Step:
    """Of batches, (CRITIC_STEPS, n, d): a step of every critic on each, and one of every generator on the last."""

    def descended(loss: Callable[[Params], jax.Array], params: Params, moments: Any) -> tuple[Params, Any]:
        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    def step(state: Any, key: jax.Array, rows: jax.Array, masks: jax.Array) -> Any:
        (generators, moments), critics = state
        masks = masks.astype(rows.dtype)

        def of_critics(critics: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
            key, x, mask = batch
            k_pairs, k_penalty = jax.random.split(key)
            pairs = _pairs(networks, generators, k_pairs, x, mask)
            return descended(lambda p: _critics_loss(networks, p, k_penalty, pairs), *critics), None

        k_last, *keys = jax.random.split(key, len(rows) + 1)
        critics, _ = jax.lax.scan(of_critics, critics, (jnp.stack(keys), rows, masks))

        def loss(generators: Params) -> jax.Array:
            return _generators_loss(
                networks, critics[0], _pairs(networks, generators, k_last, rows[-1], masks[-1]), alpha, beta
            )

        return descended(loss, generators, moments), critics

    return step


def _begun(networks: Networks, key: jax.Array, size: int) -> tuple[Params, Params]:
    """First parameters of generators and critics."""
    inputs = {"data": networks.latent, "mask": networks.latent, "imputer": size}
    keys = dict(zip(PARTS, jax.random.split(key, len(PARTS)), strict=True))
    generators = {name: networks.generators[name].init(keys[name], jnp.zeros((1, inputs[name]))) for name in PARTS}
    critics = {name: networks.critics[name].init(jax.random.fold_in(keys[name], 1), jnp.zeros((1, size))) for name in PARTS}
    return generators, critics


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
    critic = Perceptron((*critic_hidden, 1), KERNEL)
    networks = Networks(
        {name: Perceptron((*widths[name], size), KERNEL) for name in PARTS}, dict.fromkeys(PARTS, critic), latent
    )
    optimizer = optax.multi_transform(
        {speed: optax.adam(speed * learning_rate, b1=0.5, b2=0.9) for speed in (1, 2)}, {"data": 1, "mask": 1, "imputer": 2}
    )
    k_begin, k_order, k_train, k_draw = jax.random.split(key, 4)
    steps = max(1, epochs * (len(train) // min(batch_size, len(train))) // CRITIC_STEPS)
    began = time.perf_counter()
    generators, critics = _begun(networks, k_begin, size)
    order = batch_order(int(jax.random.randint(k_order, (), 0, 2**31 - 1)), len(train), batch_size, steps * CRITIC_STEPS)
    order = order.reshape(steps, CRITIC_STEPS, -1)
    state = (generators, optimizer.init(generators)), (critics, optimizer.init(critics))
    state = trained(_step(networks, optimizer, alpha, beta), state, k_train, train, train_mask, order)
    (generators, _), _ = jax.block_until_ready(state)
    seconds = time.perf_counter() - began

    draw = jax.jit(lambda k: _completed(networks, generators, k, test, test_mask.astype(test.dtype)))
    draws = [np.asarray(draw(k)) for k in jax.random.split(k_draw, num_samples)]
    return of_draws(draws, test, test_mask, seconds, steps)
