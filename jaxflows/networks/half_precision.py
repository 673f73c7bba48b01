"""An inference network computed in bfloat16, its parameters, inputs and outputs staying what they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def in_bfloat16(tree: Any) -> Any:
    """The tree with its floating-point leaves rounded to bfloat16."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


class HalfPrecision(NamedTuple):
    """A network of `jaxflows.networks.inference_network`, to be applied in bfloat16.

    Attributes:
        network: the flax module.
    """

    network: Any

    def apply(self, variables: Any, standard: jax.Array, observed: jax.Array) -> Any:
        """What the network gives, in the dtype of ``standard``; the gradient reaches the parameters in theirs."""
        outputs = self.network.apply(in_bfloat16(variables), in_bfloat16(standard), observed)
        return jax.tree.map(lambda leaf: leaf.astype(standard.dtype), outputs)
