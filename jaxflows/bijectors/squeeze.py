"""Squeeze: 2x2 neighbourhoods to channels (Dinh et al. 2017, RealNVP, Sec. 3.6). It only moves entries."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.factory import factory


@factory
def squeeze(*, factor: int = 2) -> Bijector:
    """(height, width, c) -> (height/f, width/f, f^2 c); log-determinant 0; an observation moves along.

    Args:
        factor: f, dividing height and width.
    """
    if factor < 2:
        raise ValueError(f"expected a squeeze factor of at least 2; got {factor}")

    def output_shape(shape: Shape) -> Shape:
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise ValueError(f"expected (height, width, channels) with sides divisible by {factor}; got {shape}")
        return (shape[0] // factor, shape[1] // factor, shape[2] * factor**2)

    def move(u: jax.Array) -> jax.Array:
        height, width, channels = output_shape(u.shape)
        t = u.reshape(height, factor, width, factor, u.shape[2])
        return t.transpose(0, 2, 4, 1, 3).reshape(height, width, channels)

    def move_back(v: jax.Array) -> jax.Array:
        height, width, channels = v.shape
        inner = channels // factor**2
        t = v.reshape(height, width, inner, factor, factor)
        return t.transpose(0, 3, 1, 4, 2).reshape(height * factor, width * factor, inner)

    return _moving(describe("squeeze", factor=factor), output_shape, move, move_back)


@factory
def unsqueeze(*, factor: int = 2) -> Bijector:
    """The way back: (height, width, f^2 c) -> (f height, f width, c).

    Args:
        factor: f, whose square divides the channels.
    """
    squeezed = squeeze(factor=factor)

    def output_shape(shape: Shape) -> Shape:
        if len(shape) != 3 or shape[2] % factor**2:
            raise ValueError(f"expected (height, width, channels) with channels divisible by {factor**2}; got {shape}")
        return (shape[0] * factor, shape[1] * factor, shape[2] // factor**2)

    return _moving(describe("unsqueeze", factor=factor), output_shape, squeezed.move_back, squeezed.move)


def _moving(
    spec: str, output_shape: Callable[[Shape], Shape], move: Callable[[jax.Array], jax.Array],
    move_back: Callable[[jax.Array], jax.Array],
) -> Bijector:  # fmt: skip
    """A layer that moves entries and does nothing else."""

    def init(key: jax.Array, shape: Shape) -> Params:
        del key
        output_shape(shape)
        return {}

    def transform(params: Params, u: jax.Array) -> jax.Array:
        del params
        return move(u)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        del params
        return move_back(v), no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        del params
        return jnp.zeros((), u.dtype)

    return layer(
        spec=spec, init=init, transform=transform, invert=invert, log_det=log_det, output_shape=output_shape, move=move,
        move_back=move_back,
    )  # fmt: skip


EXAMPLES = {
    "squeeze": [(squeeze(), (4, 2, 3)), (squeeze(factor=3), (3, 6, 1))],
    "unsqueeze": [(unsqueeze(), (2, 1, 8))],
}
