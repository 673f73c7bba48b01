"""What of a row outlives its micro-batch, where the rest is computed again for the gradient.

A batch in micro-batches (`jaxflows.sharding.by_rows`) stores nothing of one but its results, and computes it again when the
gradient reaches it. What took an iteration to find, and is no larger than an event, is named with `kept` and is found once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

_NAME = "kept"
_Tree = TypeVar("_Tree")


def kept(tree: _Tree) -> _Tree:
    """The same numbers, which `recomputed` stores; elsewhere this does nothing."""
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, _NAME), tree)


def recomputed(function: Callable[..., _Tree]) -> Callable[..., _Tree]:
    """``function``, of which a gradient stores the arguments and what is `kept`, and nothing else."""
    policy = jax.checkpoint_policies.save_only_these_names(_NAME)
    # inside a loop, which no optimisation merges with another: nothing has to be shielded from it
    return jax.checkpoint(function, policy=policy, prevent_cse=False)
