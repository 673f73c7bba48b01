"""Convolutions of stride 1 with zeros around ('SAME'), fast on a CPU in whatever part of a program they stand.

    out[p, o] = sum_{q, c} images[p + q - edge, c] kernel[q, c, o],   edge = floor((side - 1) / 2) an axis

XLA's CPU compiler has fast programs for convolutions in one layout alone. Those of gradients are in others, from which it
brings a program's entry back, but no loop or branch: there they take up to thirty times as long. A residual block's training,
its log-determinant and its inverse are loops; so is every search, chain and fit that conditions a flow of couplings. On a CPU,
therefore, a convolution is one product of matrices between shifts by whole pixels: its derivatives of every order, either way,
are such products and shifts again. In a program's entry alone, as in the training of couplings, XLA's own would be the faster
by a third (docs/design.md, section 10).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def convolution(images: jax.Array, kernel: jax.Array, precision: Any = None) -> jax.Array:
    """The convolution that flows on images are made of.

    Elsewhere than on a CPU it is `jax.lax.conv_general_dilated` always. Tracing settles it, by `jax.default_backend`:
    `jax.lax.platform_dependent` would later, but saves for a gradient what either program needs, in every scan.

    Args:
        images: (*batch, height, width, inputs).
        kernel: (rows, columns, inputs, outputs), of any sides.
        precision: of products, as `jax.lax.dot` takes it.

    Returns:
        (*batch, height, width, outputs).

    Cost: ``rows columns inputs outputs`` multiplications a pixel; as a product, memory for as many numbers a pixel as the least
    of ``rows columns inputs``, ``rows columns outputs`` and ``columns inputs + rows outputs``.
    """
    if jax.default_backend() == "cpu":
        return _product_of_shifts(images, kernel, precision)
    flat = images.reshape(-1, *images.shape[-3:])
    output = jax.lax.conv_general_dilated(
        flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )
    return output.reshape(*images.shape[:-1], -1)


def _product_of_shifts(images: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    height, width, inputs = images.shape[-3:]
    rows, columns, _, outputs = kernel.shape
    # an axis is shifted along before the product, which widens its left side, or after it, which widens its right side
    widths = {
        (rows, columns): rows * columns * inputs,
        (1, columns): columns * inputs + rows * outputs,
        (1, 1): rows * columns * outputs,
    }
    before = min(widths, key=lambda sides: widths[sides])
    after = rows // before[0], columns // before[1]

    def shifted(padded: jax.Array, i: int, j: int) -> jax.Array:
        return padded[..., i : i + height, j : j + width, :]

    padded = _pad(images, before)
    neighbours = jnp.concatenate([shifted(padded, i, j) for i in range(before[0]) for j in range(before[1])], axis=-1)
    matrix = kernel.reshape(after[0], before[0], after[1], before[1], inputs, outputs).transpose(1, 3, 4, 0, 2, 5)
    product = jnp.matmul(neighbours, matrix.reshape(neighbours.shape[-1], -1), precision=precision)
    parts = jnp.split(_pad(product, after), after[0] * after[1], axis=-1)
    terms = [shifted(parts[i * after[1] + j], i, j) for i in range(after[0]) for j in range(after[1])]
    return functools.reduce(jnp.add, terms)


def _pad(images: jax.Array, sides: tuple[int, int]) -> jax.Array:
    if sides == (1, 1):
        return images
    edges = [((side - 1) // 2, side // 2) for side in sides]
    return jnp.pad(images, [(0, 0)] * (images.ndim - 3) + [*edges, (0, 0)])
