"""Named non-linear measurements: functions from one event to m numbers, for `jaxflows.inverse.noisy_measurement`.

Any differentiable function of your own will do as well. What an instrument does AFTER its noise, rounding to levels or
clipping at limits, is a density and so a noise model: `jaxflows.inverse.noise.quantised` and `censored`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxflows.observation import LinearMeasurement

# added to squared moduli: the root is then differentiable at 0, where a modulus has no derivative
ROUNDING = 1e-12


def magnitude(operator: LinearMeasurement) -> Partial:
    """|A y| entry by entry: signs lost. Events y and -y read the same wherever A is, so the posterior has two modes or more.

    Args:
        operator: A, real.
    """
    return Partial(_moduli, operator)


def _moduli(operator: LinearMeasurement, y: jax.Array) -> jax.Array:
    return jnp.sqrt(operator.measure(y) ** 2 + ROUNDING)


def fourier_magnitude(event_shape: tuple[int, ...]) -> Partial:
    """Phase retrieval: the moduli of the distinct frequencies of every channel's orthonormal discrete Fourier transform.

    Args:
        event_shape: (height, width) or (height, width, channels).
    """
    if len(event_shape) not in (2, 3):
        raise ValueError(f"expected events of shape (height, width) or (height, width, channels); got {event_shape}")
    height, width = event_shape[:2]
    rows, columns = np.indices((height, width // 2 + 1))
    # in these columns a frequency and its conjugate both stand
    twice = (columns == 0) | (2 * columns == width)
    places = np.flatnonzero(~(twice & (2 * rows > height)))
    return Partial(_fourier_moduli, jnp.asarray(places, jnp.int32))


def _fourier_moduli(places: jax.Array, y: jax.Array) -> jax.Array:
    spectrum = jnp.fft.rfft2(y, axes=(0, 1), norm="ortho")
    squares = spectrum.real**2 + spectrum.imag**2
    return jnp.sqrt(squares.reshape(squares.shape[0] * squares.shape[1], -1)[places].reshape(-1) + ROUNDING)


def clipped(operator: LinearMeasurement, lower: float, upper: float) -> Partial:
    """clip(A y, lower, upper), for noise that is added AFTER the clipping; its gradient is zero where a limit is passed.

    Args:
        operator: A.
        lower, upper: the limits, lower < upper.
    """
    if not lower < upper:
        raise ValueError(f"expected lower < upper; got {lower} and {upper}")
    return Partial(_clipped, operator, (jnp.asarray(lower), jnp.asarray(upper)))


def _clipped(operator: LinearMeasurement, limits: tuple[jax.Array, jax.Array], y: jax.Array) -> jax.Array:
    return jnp.clip(operator.measure(y), *limits)
