"""Anderson mixing of a fixed-point map, as an explicit state that a solver's loop carries.

Given iterates x_i and residuals r_i = F(x_i) - x_i, type-II mixing over the last m differences dX, dR takes

    gamma = argmin |r_k - dR gamma|^2,    x_{k+1} = x_k + r_k - (dX + dR) gamma.

The least squares are solved through the m x m normal equations, scaled and ridged, by a Gauss-Jordan elimination written
in plain array operations: LAPACK inside a batched loop is slow on CPU and deadlocks on jaxlib 0.10 (docs/design.md).

References: Walker and Ni 2011 (Anderson acceleration for fixed-point iterations), Algorithm AA.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class AndersonState(NamedTuple):
    """The memory of the mixing: last differences (history, n), the last pair, and how many steps were taken."""

    x_differences: jax.Array
    r_differences: jax.Array
    gram: jax.Array
    x: jax.Array
    r: jax.Array
    taken: jax.Array


def anderson_start(x: jax.Array, history: int) -> AndersonState:
    """An empty memory for vectors like ``x`` of shape (n,)."""
    zeros = jnp.zeros((history, x.size), x.dtype)
    return AndersonState(zeros, zeros, jnp.zeros((history, history), x.dtype), x, x, jnp.zeros((), jnp.int32))


def _solve_positive(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Gauss-Jordan without pivoting, safe because the matrix is positive definite."""
    size = vector.size

    def eliminate(i: jax.Array, augmented: jax.Array) -> jax.Array:
        row = augmented[i] / augmented[i, i]
        others = augmented - augmented[:, i][:, None] * row[None, :]
        return others.at[i].set(row)

    augmented = jnp.concatenate([matrix, vector[:, None]], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, augmented)[:, -1]


def anderson_next(state: AndersonState, x: jax.Array, r: jax.Array) -> tuple[jax.Array, AndersonState]:
    """Mix: from the newest iterate ``x`` and its residual ``r = F(x) - x`` to the next iterate.

    Cost: O(history n) multiplications, no evaluation of F.
    """
    history = state.gram.shape[0]
    slot = jnp.mod(state.taken - 1, history)
    seen = state.taken > 0
    dx, dr = x - state.x, r - state.r
    # a selection, not an indexed write: with a slot of its own in every row of a batch XLA's CPU writes row by row
    newest = (jnp.arange(history) == slot) & seen
    x_differences = jnp.where(newest[:, None], dx, state.x_differences)
    r_differences = jnp.where(newest[:, None], dr, state.r_differences)
    products = r_differences @ dr
    gram = jnp.where(newest[:, None], products, jnp.where(newest, products[:, None], state.gram))
    # columns scaled to one, so that old large differences and new small ones weigh alike; unused slots become identity
    scale = jnp.sqrt(jnp.diagonal(gram))
    used = scale > 0
    inverse_scale = jnp.where(used, 1.0 / jnp.where(used, scale, 1.0), 0.0)
    # ten ulps: below it the normal equations of float32 lose positive definiteness
    ridge = 10 * jnp.finfo(x.dtype).eps
    scaled = gram * inverse_scale[:, None] * inverse_scale[None, :]
    scaled = scaled + jnp.diag(jnp.where(used, ridge, 1.0))
    gamma = inverse_scale * _solve_positive(scaled, inverse_scale * (r_differences @ r))
    # a mixing that blew up on rounding is dropped for the plain step
    gamma = jnp.where(jnp.all(jnp.isfinite(gamma)), gamma, 0.0)
    mixed = x + r - gamma @ (x_differences + r_differences)
    return mixed, AndersonState(x_differences, r_differences, gram, x, r, state.taken + 1)
