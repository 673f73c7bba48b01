"""ActNorm: an affine map per element, per channel or for the whole event (Kingma and Dhariwal 2018, Glow)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.factory import factory

_SHARED_AXES = {
    "element": lambda rank: (),
    "channel": lambda rank: tuple(range(rank - 1)),
    "event": lambda rank: tuple(range(rank)),
}


@factory
def actnorm(*, over: str = "channel", scale_floor: float = 1e-3) -> Bijector:
    """v = (u - shift) exp(log_scale), started so that the first batch leaves with mean 0 and variance 1.

    Args:
        over: what shares one shift and scale: 'element' (nothing), 'channel' (all but the last axis), 'event' (all of it).
            Only 'event' commutes with every linear observation; all three leave masks as they are.
        scale_floor: standard deviations of the first batch below it are raised to it, so that a constant column is not
            blown up; the ratio to the batch's largest standard deviation when that is smaller.
    """
    check_shared(over)

    def init(key: jax.Array, shape: Shape) -> Params:
        del key
        return {"shift": jnp.zeros(shared_shape(over, shape)), "log_scale": jnp.zeros(shared_shape(over, shape))}

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return (u - params["shift"]) * jnp.exp(params["log_scale"])

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        return v * jnp.exp(-params["log_scale"]) + params["shift"], no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return jnp.sum(params["log_scale"]) * (u.size / params["log_scale"].size)

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        if batch.shape[0] == 0:
            raise ValueError(f"expected at least one row to start from; got a batch of shape {batch.shape}")
        shared = (0, *(axis + 1 for axis in _SHARED_AXES[over](batch.ndim - 1)))
        deviation = jnp.std(batch, axis=shared, keepdims=True)[0]
        floor = jnp.minimum(scale_floor, scale_floor * jnp.max(deviation))
        deviation = jnp.where(deviation > 0, jnp.maximum(deviation, floor), 1.0)
        return {"shift": jnp.mean(batch, axis=shared, keepdims=True)[0], "log_scale": -jnp.log(deviation)}

    return layer(
        spec=describe("actnorm", over=over, scale_floor=scale_floor), init=init, transform=transform, invert=invert,
        log_det=log_det, fit_to_data=fit_to_data,
    )  # fmt: skip


def check_shared(over: str) -> None:
    """Raise ValueError for other than 'element', 'channel' or 'event'."""
    if over not in _SHARED_AXES:
        raise ValueError(f"expected over to be one of {sorted(_SHARED_AXES)}; got {over!r}")


def shared_shape(over: str, shape: Shape) -> Shape:
    """Of parameters of an event of this shape: 1 along the axes that share them."""
    shared = _SHARED_AXES[over](len(shape))
    return tuple(1 if axis in shared else side for axis, side in enumerate(shape))


EXAMPLES = {"actnorm": [(actnorm(over=over), (4, 2, 3)) for over in ("element", "channel", "event")]}
