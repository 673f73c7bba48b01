"""Antithetic pairs: draw 2i + 1 is made of the numbers of draw 2i with the other sign.

Each has the law it would have alone; in a mean over both, what is odd in those numbers cancels. Of the variance of a mean
(1 + rho) is left, rho the correlation within a pair, which is at least -1 and below 0 for whatever is monotone in the numbers
(Hammersley and Morton 1956).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def in_pairs(values: jax.Array) -> jax.Array:
    """(S, ...): the first half of the values, each twice in a row."""
    return values[jnp.arange(len(values)) // 2]


def paired_keys(key: jax.Array, count: int, dtype: jnp.dtype, antithetic: bool) -> tuple[jax.Array, jax.Array]:
    """A key and a sign for each of ``count`` draws: of their own and 1, or antithetic, those of a pair alike and opposite."""
    keys = jax.random.split(key, count)
    return (in_pairs(keys), pair_signs(count, dtype)) if antithetic else (keys, jnp.ones(count, dtype))


def pair_signs(count: int, dtype: jnp.dtype) -> jax.Array:
    """(count,): 1, -1, 1, -1, ..."""
    return jnp.where(jnp.arange(count) % 2, -1.0, 1.0).astype(dtype)
