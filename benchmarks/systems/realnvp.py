"""The RealNVP of MCFlow and EMFlow: affine couplings over random halves, by dense networks as wide as the event.

    z = b x + (1 - b) (x - t(b x)) exp(-s(b x)),   log|det dz/dx| = -sum (1 - b) s(b x)

The first coupling that data pass is the last in the list of the authors' generating direction; here the list is in the order
of encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Dense(nn.Module):
    """``layers`` linear maps, each as wide as the input, with LeakyReLU of slope 0.01 between them and ``last`` at the end."""

    layers: int
    last: Callable[[jax.Array], jax.Array] = lambda t: t

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., d) to (..., d)."""
        width = x.shape[-1]
        for _ in range(self.layers - 1):
            x = nn.leaky_relu(nn.Dense(width)(x), 0.01)
        return self.last(nn.Dense(width)(x))


class RealNvp(nn.Module):
    """Couplings by a scale network that ends in tanh and a shift network, four layers each.

    Attributes:
        size: d.
        pairs: of couplings over a random half and its complement.
        seed: of the halves.
    """

    size: int
    pairs: int = 3
    seed: int = 0

    def setup(self) -> None:
        """Networks and halves."""
        rng = np.random.default_rng(self.seed)
        halves = [rng.permutation(self.size) < self.size // 2 for _ in range(self.pairs)]
        self.halves = [half if i == 0 else ~half for half in halves for i in range(2)]
        self.scales = [Dense(4, jnp.tanh) for _ in self.halves]
        self.shifts = [Dense(4) for _ in self.halves]

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(..., d) data to latents and log|det dz/dx|, (...)."""
        log_det = jnp.zeros(x.shape[:-1], x.dtype)
        for half, scale, shift in zip(self.halves, self.scales, self.shifts, strict=True):
            held = half * x
            s = ~half * scale(held)
            x = held + ~half * (x - shift(held)) * jnp.exp(-s)
            log_det -= s.sum(axis=-1)
        return x, log_det

    def decode(self, z: jax.Array) -> jax.Array:
        """(..., d) latents to data."""
        for half, scale, shift in reversed(list(zip(self.halves, self.scales, self.shifts, strict=True))):
            held = half * z
            z = held + ~half * (z * jnp.exp(scale(held)) + shift(held))
        return z


def fresh(module: RealNvp, key: jax.Array) -> Any:
    """Its first parameters."""
    return module.init(key, jnp.zeros((1, module.size)), method="encode")


def encode(module: RealNvp, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`RealNvp.encode`."""
    return module.apply(params, x, method="encode")


def decode(module: RealNvp, params: Any, z: jax.Array) -> jax.Array:
    """`RealNvp.decode`."""
    return module.apply(params, z, method="decode")
