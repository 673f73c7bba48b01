"""What a call of `jaxflows.complete` was asked, a word an argument: an interrupted result goes on with the same alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def call_record(settings: Mapping[str, object], arrays: Mapping[str, Any]) -> dict[str, str]:
    """The settings as text, and a digest of every argument that is arrays (any pytree of them).

    A constraint solver is none of the settings: it is a function, and two that solve the same draw the same, to tolerance.
    """
    return {name: str(value) for name, value in settings.items()} | {name: digest_of(tree) for name, tree in arrays.items()}


def check_same_call(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise ValueError for the first argument that differs; whoever kept ``before`` may leave out the parameters."""
    for name, value in now.items():
        earlier = before.get(name, value if name == "params" else "unknown")
        if earlier != value:
            raise ValueError(f"expected resume to be of this call, in which {name} is {value}; got {name} {earlier}")


def digest_of(tree: Any) -> str:
    """SHA-256 over types, shapes and bytes of all leaves, its first 12 digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        keys = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        values = np.asarray(jax.random.key_data(leaf) if keys else leaf)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:12]
