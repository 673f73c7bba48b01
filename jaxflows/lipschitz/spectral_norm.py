"""Spectral norms by power iteration on the true linear operator, with explicit state.

For a linear map A (a matrix, or a convolution with the padding it is really used with) and a unit vector t,

    s = A t / |A t|,   t' = A^T s / |A^T s|,   |A t| <= ||A||_2,

and ``t`` is the state: saved with the parameters, renewed by a pure function, never hidden in a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _unit(t: jax.Array) -> jax.Array:
    return t / jnp.maximum(jnp.linalg.norm(t), jnp.finfo(t.dtype).tiny)


def power_iteration(operator: Callable[[jax.Array], jax.Array], t: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """Estimate ||A||_2 from below by ``steps`` power iterations on A^T A.

    Args:
        operator: the linear map, one array to one array.
        t: the start, of the operator's input shape; any non-zero vector not orthogonal to the top singular vector.
        steps: iterations; each costs one application of A and one of A^T.

    Returns:
        ``(norm, t)``: |A t| for the renewed unit vector ``t``, and that vector.
    """
    transpose = jax.linear_transpose(operator, t)

    def body(_: Any, t: jax.Array) -> jax.Array:
        moved = transpose(operator(t))[0]
        # an operator that is zero for a while must not wipe out the state
        return jnp.where(jnp.linalg.norm(moved) > 0, _unit(moved), t)

    t = jax.lax.fori_loop(0, steps, body, _unit(t))
    return jnp.linalg.norm(operator(t)), t


def dense_norm(weight: jax.Array) -> jax.Array:
    """The exact spectral norm of a matrix, by SVD: O(n^3), for certificates and tests."""
    return jnp.linalg.norm(weight, ord=2)
