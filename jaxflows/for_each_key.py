"""The same draw several times, each from a key of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

_Tree = TypeVar("_Tree")


def for_each_key(function: Callable[[jax.Array], _Tree], key: jax.Array, count: int) -> _Tree:
    """``jax.vmap(function)(jax.random.split(key, count))``.

    A single draw is made without a batch axis: JAX traces a loop of batched loops several times over, and most draws here
    (a probe, a sample a row) are single ones around solvers.
    """
    keys = jax.random.split(key, count)
    if count != 1:
        return jax.vmap(function)(keys)
    return jax.tree.map(lambda leaf: leaf[None], function(keys[0]))
