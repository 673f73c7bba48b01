"""Scores of pictures against the truth, over the whole of them, whatever was observed.

Shapes throughout: ``images`` and ``truth`` (rows, height, width) or (rows, height, width, channels), in the same units. All run
under jit, vmap and grad, and average over the rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Wang et al. 2004: a window of 11 x 11, and two constants in units of the range
WINDOW, WIDTH = 11, 1.5
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01, 0.03


def _check(images: jax.Array, truth: jax.Array, data_range: float, least_side: int) -> None:
    if images.shape != truth.shape or images.ndim not in (3, 4) or min(images.shape[1:3]) < least_side or not len(images):
        raise ValueError(
            f"expected images and truth of one shape (rows, height, width) or (rows, height, width, channels), at least one "
            f"row and sides of at least {least_side}; got {images.shape} and {truth.shape}"
        )
    if not data_range > 0:
        raise ValueError(f"expected data_range > 0; got {data_range}")


def psnr(images: jax.Array, truth: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Peak signal-to-noise ratio in decibels, 10 log10(range^2 / mean squared error) of each image, averaged; more is better.

    Args:
        images, truth: as above.
        data_range: largest less smallest value that a pixel can have.

    Returns:
        A number; infinite where an image is its truth.
    """
    _check(images, truth, data_range, 1)
    errors = jnp.mean((images - truth) ** 2, axis=tuple(range(1, images.ndim)))
    return jnp.mean(10.0 * jnp.log10(data_range**2 / errors))


def ssim(images: jax.Array, truth: jax.Array, *, data_range: float = 1.0) -> jax.Array:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004, Eq. 13), averaged; 1 for equal images.

        (2 mu_x mu_y + c1) (2 s_xy + c2) / ((mu_x^2 + mu_y^2 + c1) (s_xx + s_yy + c2))

    with means, variances and the covariance under a Gaussian window of 11 x 11 pixels and width 1.5, averaged over all places
    where the window lies within the image, and over channels; c1 = (0.01 range)^2, c2 = (0.03 range)^2.

    Args:
        images, truth: as above, sides of at least 11.
        data_range: largest less smallest value that a pixel can have.
    """
    _check(images, truth, data_range, WINDOW)
    x, y = (values.reshape(*values.shape[:3], -1) for values in (images, truth))
    down, across = _windows(x.shape[1]), _windows(x.shape[2])

    def windowed(values: jax.Array) -> jax.Array:
        return jnp.einsum("ih,nhwc,jw->nijc", down, values, across, precision=jax.lax.Precision.HIGHEST)

    mean_x, mean_y = windowed(x), windowed(y)
    variances = windowed(x * x) - mean_x**2 + windowed(y * y) - mean_y**2
    covariance = windowed(x * y) - mean_x * mean_y
    c1, c2 = (LUMINANCE_CONSTANT * data_range) ** 2, (CONTRAST_CONSTANT * data_range) ** 2
    likeness = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    return jnp.mean(likeness / ((mean_x**2 + mean_y**2 + c1) * (variances + c2)))


def _windows(side: int) -> np.ndarray:
    """(side - 10, side), a row the weights of the window at one place."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / WIDTH) ** 2)
    rows = np.zeros((side - WINDOW + 1, side))
    for first, row in enumerate(rows):
        row[first : first + WINDOW] = weights / weights.sum()
    return rows
