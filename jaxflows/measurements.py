"""Named linear measurements of an event, each factorised once: what `jaxflows.complete` and `jaxflows.solve` condition on.

Every function returns a `jaxflows.observation.LinearMeasurement` of full row rank, b = A y, with y the event before any
layer of the flow. A measurement of pixels is not linear after a logit: the flow must begin with maps that are affine and the
same for the whole event (docs/design.md, section 2). Your own matrix or function goes to `jaxflows.observe.linear`.

Cost: one QR factorisation of a d x d basis; then 4 d m multiplications a projection, for m measurements of d entries.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxflows.cosines import cosine_matrix
from jaxflows.observation import LinearMeasurement, linear, mask

# luminance of linear RGB (ITU-R BT.709)
LUMINANCE = (0.2126, 0.7152, 0.0722)


def entries(observed: Any) -> LinearMeasurement:
    """Inpainting: the entries where ``observed`` is True, in the order of the flattened event, with no factorisation at all.

    Args:
        observed: boolean, event-shaped, at least one entry True.
    """
    seen = np.asarray(observed)
    observation = mask(seen)
    positions = np.flatnonzero(seen)
    if not positions.size:
        raise ValueError("expected at least one observed entry; got none")
    places = jnp.asarray(positions, jnp.int32)
    return LinearMeasurement(observation, Partial(_scatter, observation.observed, places), Partial(_gather, places))


def _gather(places: jax.Array, y: jax.Array) -> jax.Array:
    return y.reshape(-1)[places]


def _scatter(event_like: jax.Array, places: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.zeros(event_like.size, b.dtype).at[places].set(b).reshape(event_like.shape)


def gaussian(event_shape: tuple[int, ...], count: int, *, seed: int = 0) -> LinearMeasurement:
    """Compressed sensing: ``count`` random projections, A_ij ~ N(0, 1 / count) (Bora et al. 2017).

    Args:
        event_shape: shape of an event.
        count: m, at most the event's size.
        seed: of the matrix.
    """
    size = math.prod(event_shape)
    if not 1 <= count <= size:
        raise ValueError(f"expected 1 <= count <= {size}, the event's size; got {count}")
    matrix = np.random.default_rng(seed).standard_normal((count, size)) / math.sqrt(count)
    return linear(matrix, event_shape)


def average_pooling(event_shape: tuple[int, ...], factor: int) -> LinearMeasurement:
    """Super-resolution: the mean of every factor x factor square, channel by channel.

    Args:
        event_shape: (height, width) or (height, width, channels), sides divisible by ``factor``.
        factor: side of a square.
    """
    height, width = _sides(event_shape)
    if factor < 2 or height % factor or width % factor:
        raise ValueError(f"expected a factor of at least 2 that divides {height} and {width}; got {factor}")

    def pool(y: jax.Array) -> jax.Array:
        return y.reshape(height // factor, factor, width // factor, factor, -1).mean((1, 3))

    return linear(pool, event_shape)


def grey_scale(event_shape: tuple[int, ...], weights: tuple[float, ...] = LUMINANCE) -> LinearMeasurement:
    """Colourisation: one weighted sum of the channels a pixel.

    Args:
        event_shape: (height, width, channels).
        weights: one a channel; the luminance of RGB.
    """
    if len(event_shape) != 3 or event_shape[2] != len(weights):
        raise ValueError(f"expected events of shape (height, width, {len(weights)}); got {event_shape}")
    return linear(lambda y: y @ jnp.asarray(weights), event_shape)


def blur(event_shape: tuple[int, ...], sigma: float, *, tolerance: float = 1e-3) -> LinearMeasurement:
    """Deblurring: the components of a Gaussian blur, edges mirrored, that it does not wipe out.

    The blur is diagonal in the cosine transform, with gain exp(-sigma^2 w^2 / 2) at the frequency w of each axis. Components
    of gain under ``tolerance`` are not measured: in exact arithmetic they would be, at a precision that no float has.

    Args:
        event_shape: (height, width) or (height, width, channels).
        sigma: standard deviation of the kernel, in pixels.
        tolerance: smallest gain measured, in (0, 1).
    """
    height, width = _sides(event_shape)
    if not sigma > 0 or not 0 < tolerance < 1:
        raise ValueError(f"expected sigma > 0 and 0 < tolerance < 1; got {sigma} and {tolerance}")
    gains = [np.exp(-0.5 * (sigma * np.pi * np.arange(side) / side) ** 2) for side in (height, width)]
    gain = np.outer(*gains)
    keep = np.flatnonzero(gain.reshape(-1) >= tolerance)
    return _of_plane(event_shape, gain.reshape(-1)[keep, None] * _cosines(height, width)[keep])


def cosine(event_shape: tuple[int, ...], count: int) -> LinearMeasurement:
    """Partial discrete cosine transform: the ``count`` lowest frequencies of every channel (orthonormal DCT-II).

    Args:
        event_shape: (height, width) or (height, width, channels).
        count: frequencies, at most height x width, in order of the sum of the two indices.
    """
    height, width = _sides(event_shape)
    if not 1 <= count <= height * width:
        raise ValueError(f"expected 1 <= count <= {height * width} frequencies; got {count}")
    order = np.argsort(np.add.outer(np.arange(height), np.arange(width)).reshape(-1), kind="stable")
    return _of_plane(event_shape, _cosines(height, width)[order[:count]])


def fourier(event_shape: tuple[int, ...], share: float, *, seed: int = 0) -> LinearMeasurement:
    """Partial discrete Fourier transform, as in magnetic resonance imaging: a random share of the frequencies, and the mean.

    The real and imaginary parts of every frequency measured, each an orthonormal row; of a frequency and its negative, which a
    real event determines from each other, only one stands in the list to draw from.

    Args:
        event_shape: (height, width) or (height, width, channels).
        share: of the distinct frequencies, in (0, 1].
        seed: of the choice.
    """
    height, width = _sides(event_shape)
    if not 0 < share <= 1:
        raise ValueError(f"expected 0 < share <= 1; got {share}")
    down, across = np.divmod(np.arange(height * width), width)
    negative = (-down % height) * width + (-across % width)
    distinct = np.flatnonzero(np.arange(height * width) <= negative)
    others = np.random.default_rng(seed).permutation(distinct[1:])
    chosen = np.concatenate([[0], others[: math.ceil(share * len(distinct)) - 1]]).astype(int)
    phase = 2 * np.pi * (np.outer(down[chosen] / height, down) + np.outer(across[chosen] / width, across))
    own = (negative[chosen] == chosen)[:, None]
    scale = np.sqrt(np.where(own, 1.0, 2.0) / (height * width))
    rows = np.concatenate([scale * np.cos(phase), (scale * np.sin(phase))[~own[:, 0]]])
    return _of_plane(event_shape, rows)


def _sides(event_shape: tuple[int, ...]) -> tuple[int, int]:
    if len(event_shape) not in (2, 3):
        raise ValueError(f"expected events of shape (height, width) or (height, width, channels); got {event_shape}")
    return event_shape[0], event_shape[1]


def _cosines(height: int, width: int) -> np.ndarray:
    """The orthonormal two-dimensional DCT-II, (height width, height width), a row a frequency."""
    return np.kron(cosine_matrix(height), cosine_matrix(width))


def _of_plane(event_shape: tuple[int, ...], rows: np.ndarray) -> LinearMeasurement:
    """The same rows (m, height width) for every channel."""
    channels = event_shape[2] if len(event_shape) == 3 else 1
    return linear(np.kron(rows, np.eye(channels)), event_shape)
