"""What a draw of a flow says of the event before the noise that training added to it.

    E[ t | y = t + sigma eps ] = y + sigma^2 grad log p(y)

Flows are trained on pixels with noise, so that a density exists, and their draws have that noise too. Whoever wants the pixels
wants it taken out again, and the flow itself says how: by Tweedie's formula, exactly where p is the density of y.

Source: Robbins 1956; Efron 2011.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow

# events whose gradients are taken together
_AT_ONCE = 64


def denoise(flow: Flow, params: Params, events: Any, std: float) -> np.ndarray:
    """The mean of the event before the noise, given the event.

    Args:
        flow, params: a flow of events with normal noise, such as ``fit(..., noise=)`` trains.
        events: (..., *event_shape), floating point: draws, completions. What was observed without noise is for the caller to
            put back, as ``numpy.where(observed, rows, denoised)``.
        std: standard deviation sigma of the noise of every entry, at least 0; the shipped models' is "noise_std" in their
            metadata.

    Returns:
        Events of the same shape: a mean, and so of slightly less variance than the events before the noise have.

    Raises:
        ValueError: events of another shape or dtype, or a std below 0 or not finite.

    Cost: one gradient of log p an event.

    Example:
        >>> flow, params, about = jaxflows.load("digits.safetensors")
        >>> clean = jaxflows.denoise(flow, params, result.samples, about["noise_std"])
    """
    events = np.asarray(events)
    rank = len(flow.event_shape)
    if events.ndim < rank or events.shape[events.ndim - rank :] != flow.event_shape:
        raise ValueError(f"expected events of shape (..., {', '.join(map(str, flow.event_shape))}); got {events.shape}")
    if not np.issubdtype(events.dtype, np.floating):
        raise ValueError(f"expected events of a floating dtype; got {events.dtype}")
    if not (np.isfinite(std) and std >= 0):
        raise ValueError(f"expected a finite std >= 0; got {std}")
    if events.size == 0:
        return events
    rows = jnp.asarray(events.reshape(-1, *flow.event_shape))
    return np.asarray(_denoised(flow, params, rows, jnp.asarray(std, rows.dtype))).reshape(events.shape)


@functools.partial(jax.jit, static_argnums=0)
def _denoised(flow: Flow, params: Params, rows: jax.Array, std: jax.Array) -> jax.Array:
    slope = jax.grad(lambda y: flow.log_prob(params, y))
    return jax.lax.map(lambda y: y + std**2 * slope(y), rows, batch_size=_AT_ONCE)
