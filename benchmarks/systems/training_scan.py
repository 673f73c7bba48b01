"""A whole training as one compiled program: steps on random batches of rows that stay on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.systems.imputed import minibatches

Step = Callable[[Any, jax.Array, jax.Array, jax.Array], Any]


def batch_order(key: jax.Array, count: int, size: int, steps: int) -> np.ndarray:
    """Row numbers of ``steps`` batches, (steps, size): epochs in random order, the last one cut short."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    epochs = -(-steps // (count // min(size, count)))
    return np.concatenate([minibatches(seed + epoch, count, size) for epoch in range(epochs)])[:steps]


@functools.partial(jax.jit, static_argnums=0)
def trained(step: Step, state: Any, key: jax.Array, rows: jax.Array, mask: jax.Array, order: jax.Array) -> Any:
    """The state after ``step(state, key, rows, mask)`` on every batch.

    Args:
        step: returns the next state.
        state: the first.
        key: split over the steps.
        rows, mask: (n, d), of training.
        order: (steps, ...), row numbers; a step gets rows and mask of shape (..., d).
    """

    def one(state: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        key, numbers = batch
        return step(state, key, rows[numbers], mask[numbers]), None

    return jax.lax.scan(one, state, (jax.random.split(key, len(order)), order))[0]
