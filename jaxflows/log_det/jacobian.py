"""The exact log-determinant, by the whole Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def exact_log_det(transform: Callable[[jax.Array], jax.Array], u: jax.Array) -> jax.Array:
    """log|det d transform/du| for a map of one array to an array of the same size.

    Cost: d JVPs and an O(d^3) factorisation.
    """
    jacobian = jax.jacfwd(lambda t: transform(t.reshape(u.shape)).reshape(-1))(u.reshape(-1))
    return jnp.linalg.slogdet(jacobian)[1]
