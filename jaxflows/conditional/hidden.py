"""Coordinates of the hidden subspace, with a static number of slots.

Posteriors and dense sub-Jacobians need coordinates c of the hidden subspace H, not only its projector. With R and m the
rotation and mask of the observation, c lists the entries of R v at ~m, in K >= d_H slots; slots past d_H are unused and
hold zero. K is static (d when unknown), so one compiled program serves every mask with at most K hidden entries, and
dense work costs O(K) products and O(K^3) arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.observation import Observation


class Hidden(NamedTuple):
    """The hidden subspace of one observation, in K slots.

    Attributes:
        observation: the projector it belongs to.
        slots: (K,) integers, the flattened coordinates of R v that the slots hold.
        used: (K,) boolean, False past d_H.
    """

    observation: Observation
    slots: jax.Array
    used: jax.Array

    def expand(self, c: jax.Array) -> jax.Array:
        """The event-shaped vector of H with coordinates ``c`` of shape (K,)."""
        observed = self.observation.observed
        values = jnp.zeros(observed.size, c.dtype).at[self.slots].set(jnp.where(self.used, c, 0.0), unique_indices=True)
        return self.observation.from_coordinates(values.reshape(observed.shape))

    def compress(self, v: jax.Array) -> jax.Array:
        """The coordinates (K,) of P_H v, zero in unused slots."""
        return jnp.where(self.used, self.observation.to_coordinates(v).reshape(-1)[self.slots], 0.0)


def hidden(observation: Observation, max_hidden: int | None = None) -> Hidden:
    """List the hidden coordinates of an observation.

    Args:
        observation: one observation; may be traced.
        max_hidden: K, a static bound on the number hidden; the event's size when None. Entries past it would be lost, so
            whoever passes it has counted.
    """
    observed = observation.observed.reshape(-1)
    size = observed.size if max_hidden is None else max_hidden
    # a stable sort of False before True puts the hidden coordinates first, in order
    slots = jnp.argsort(observed, stable=True)[:size]
    return Hidden(observation, slots, ~observed[slots])


def hidden_columns(flow: Flow, params: Params, where: Hidden, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The latent of y and the columns of G = dg/dy that belong to the hidden subspace.

    Returns:
        ``(x, columns)``: x = g(y) moved back to event coordinates, (*event,), and columns (d, K), zero in unused slots,
        rows in the coordinates R. Cost: K JVPs of ``encode``.
    """

    def encode(t: jax.Array) -> jax.Array:
        return flow.bijector.move_back(flow.encode(params, t))

    # jvp, not linearize: on jax 0.9.2 the gradient of a linearised scan loses what depends on the parameters alone
    def column(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, tangent = jax.jvp(encode, (y,), (where.expand(c),))
        return x, where.observation.to_coordinates(tangent).reshape(-1)

    # the primal does not depend on the direction: it is computed once
    return jax.vmap(column, out_axes=(None, 1))(jnp.eye(where.slots.size, dtype=y.dtype))


def hidden_block(where: Hidden, columns: jax.Array) -> jax.Array:
    """G^HH, (K, K), bordered by an identity in unused slots, from `hidden_columns`."""
    block = jnp.where(where.used[:, None], columns[where.slots], 0.0)
    return block + jnp.diag(jnp.where(where.used, 0.0, 1.0).astype(columns.dtype))
