"""The maximum norm, by which every solver judges a defect."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def largest(v: jax.Array) -> jax.Array:
    """Largest absolute entry, infinite where an entry is not finite (so that NaN never passes for converged)."""
    folded = jnp.abs(v).reshape(-1)
    # a reduction along the last axis is one chain of scalar maxima on CPU; halves compared entry by entry are vectorised.
    # The halves of an odd number overlap in one entry, which a maximum does not mind.
    while folded.size > 8:
        half = (folded.size + 1) // 2
        folded = jnp.maximum(folded[:half], folded[-half:])
    size = jnp.max(folded, initial=0.0)
    return jnp.where(jnp.isfinite(size), size, jnp.inf)
