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


def pair_signs(count: int, dtype: jnp.dtype) -> jax.Array:
    """(count,): 1, -1, 1, -1, ..."""
    return jnp.where(jnp.arange(count) % 2, -1.0, 1.0).astype(dtype)
