"""MCFlow (Richardson et al., CVPR 2020): a RealNVP and a latent network, fitted in turn to completed rows.

Of a batch of completed rows x, with observed entries O, g data to latent and f back:

    z = g(x),  z' = N(z),  x' = f(z'),   L_flow = mean -log p(x),   L_N = sum_O (x' - x)^2 + mean -log p(x')

The flow descends L_flow and the latent network L_N. At epochs 2, 4, 8, ... every hole takes clip(x', 0, 1) and the flow starts
anew. As in the authors' code, the gradient of L_N in the flow's parameters is added to its next step. Here z is held in L_N.
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
from benchmarks.systems.realnvp import Dense, RealNvp, decode, encode, fresh

NETWORK = Dense(5)


def _negative_log_prob(flow: RealNvp, params: Any, x: jax.Array) -> jax.Array:
    z, log_det = encode(flow, params, x)
    return jnp.mean(0.5 * jnp.sum(z**2 + math.log(2 * math.pi), axis=-1) - log_det)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(flow: RealNvp, optimizer: Any, state: Any, x: jax.Array, mask: jax.Array) -> Any:
    flow_params, network, flow_state, network_state, leaked = state

    def network_loss(network: Any, flow_params: Any) -> jax.Array:
        z = jax.lax.stop_gradient(encode(flow, flow_params, x)[0])
        again = decode(flow, flow_params, NETWORK.apply(network, z))
        return jnp.sum(jnp.where(mask, again - x, 0.0) ** 2) + _negative_log_prob(flow, flow_params, again)

    own = jax.grad(lambda p: _negative_log_prob(flow, p, x))(flow_params)
    of_network, leaking = jax.grad(network_loss, argnums=(0, 1))(network, flow_params)
    updates, flow_state = optimizer.update(jax.tree.map(jnp.add, own, leaked), flow_state)
    network_updates, network_state = optimizer.update(of_network, network_state)
    flow_params, network = optax.apply_updates(flow_params, updates), optax.apply_updates(network, network_updates)
    return flow_params, network, flow_state, network_state, leaking


@functools.partial(jax.jit, static_argnums=0)
def _complete(flow: RealNvp, flow_params: Any, network: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    again = decode(flow, flow_params, NETWORK.apply(network, encode(flow, flow_params, x)[0]))
    return jnp.where(mask, x, jnp.clip(again, 0.0, 1.0))


def impute(
    key: jax.Array,
    train_rows: np.ndarray,
    train_mask: np.ndarray,
    test_rows: np.ndarray,
    test_mask: np.ndarray,
    *,
    epochs: int = 500,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    pairs: int = 3,
    image_shape: tuple[int, int] | None = None,
) -> Imputed:
    """Train and complete; no draws.

    Args:
        key: of parameters, fillings and batches.
        train_rows, train_mask, test_rows, test_mask: as `benchmarks.systems`.
        epochs, batch_size, learning_rate: of Adam for both networks; the defaults are the authors'.
        pairs: of couplings of the flow.
        image_shape: (height, width) of images, whose holes first take a near pixel; None for tables.
    """
    train, train_mask = checked(train_rows, train_mask)
    test, test_mask = checked(test_rows, test_mask)
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    train_filled = initial_filling(seed, train, train_mask, (train, train_mask), image_shape)
    test_filled = initial_filling(seed + 1, test, test_mask, (train, train_mask), image_shape)
    flow, optimizer = RealNvp(train.shape[1], pairs, seed), optax.adam(learning_rate)
    k_network, k_flow = jax.random.split(key)

    def begun(epoch: int) -> Any:
        params = fresh(flow, jax.random.fold_in(k_flow, epoch))
        return params, optimizer.init(params), jax.tree.map(jnp.zeros_like, params)

    network = NETWORK.init(k_network, jnp.zeros((1, train.shape[1])))
    network_state = optimizer.init(network)
    began = time.perf_counter()
    flow_params, flow_state, leaked = begun(0)
    state, steps, refill = (flow_params, network, flow_state, network_state, leaked), 0, 2
    for epoch in range(1, epochs + 1):
        for batch in minibatches(seed + epoch, len(train), batch_size):
            state = _step(flow, optimizer, state, train_filled[batch], train_mask[batch])
            steps += 1
        # after the last refill nothing would be left of a flow that starts anew
        if epoch == refill and epoch < epochs:
            refill *= 2
            train_filled = np.asarray(_complete(flow, *state[:2], train_filled, train_mask))
            test_filled = np.asarray(_complete(flow, *state[:2], test_filled, test_mask))
            flow_params, flow_state, leaked = begun(epoch)
            state = (flow_params, state[1], flow_state, state[3], leaked)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - began
    return Imputed(np.asarray(_complete(flow, *state[:2], test_filled, test_mask)), None, seconds, steps)
