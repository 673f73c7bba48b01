"""Smooth activations with a known Lipschitz constant of at most one.

========= ======================================================= ==========================================
name      formula                                                 source
========= ======================================================= ==========================================
lipswish  t sigmoid(b t) / 1.1, b = softplus(beta) + 1/2 learned  Chen et al. 2019, Residual Flows, Sec. 3.2
clipswish concat(lipswish(t), lipswish(-t)) / 1.004               Perugachi-Diaz et al. 2021, i-DenseNets
elu       t for t > 0, exp(t) - 1 otherwise                       Behrmann et al. 2019, i-ResNets
tanh      tanh(t)
========= ======================================================= ==========================================

For clipswish the 2-norm of the derivative is sqrt(s'(t)^2 + (1.1^-1 - s'(t))^2) <= 1.00394, s being lipswish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Activation(NamedTuple):
    """An elementwise map ``apply(beta, t)`` of Lipschitz constant at most one, ``widening`` times as wide as its input."""

    apply: Callable[[jax.Array, jax.Array], jax.Array]
    widening: int


def _slope(beta: jax.Array) -> jax.Array:
    return jax.nn.softplus(beta) + 0.5


def _lipswish(beta: jax.Array, t: jax.Array) -> jax.Array:
    # the slope of t sigmoid(b t) peaks at 1.0998 whatever b > 0 is
    return t * jax.nn.sigmoid(_slope(beta) * t) / 1.1


def _clipswish(beta: jax.Array, t: jax.Array) -> jax.Array:
    # lipswish(-t) = lipswish(t) - t / 1.1, because sigmoid(-z) = 1 - sigmoid(z): one exponential and no division for both
    scaled = t * (1.0 / (1.1 * 1.004))
    positive = scaled * jax.nn.sigmoid(_slope(beta) * t)
    return jnp.concatenate([positive, positive - scaled], axis=-1)


ACTIVATIONS: dict[str, Activation] = {
    "lipswish": Activation(_lipswish, 1),
    "clipswish": Activation(_clipswish, 2),
    "elu": Activation(lambda beta, t: jax.nn.elu(t), 1),
    "tanh": Activation(lambda beta, t: jnp.tanh(t), 1),
}


def activation(name: str) -> Activation:
    """Look an activation up by name; raises ValueError naming the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {sorted(ACTIVATIONS)}; got {name!r}")
    return ACTIVATIONS[name]
