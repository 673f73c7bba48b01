"""A flow trained with flowjax (Ward 2021)."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.distributions import AbstractTransformed, StandardNormal

from jaxflows.adapters.functions import from_functions
from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow


def from_flowjax(distribution: Any, *, condition: Any = None, probe: Any = None) -> tuple[Flow, Params]:
    """A flowjax flow as a `jaxflows.Flow`: encode is the bijection's inverse, decode its transform.

    A normal base with any loc and scale counts as an affine layer on a standard normal. Masked autoregressive flows are
    slow one way, as they are in flowjax; where flowjax has no transform at all (planar flows) decode is Newton's method.

    Args:
        distribution: ``flowjax.distributions.Transformed`` on a ``StandardNormal`` or ``Normal`` base, as every factory
            of ``flowjax.flows`` makes; nested ones are merged.
        condition: the conditioning variable of a conditional flow (``cond_shape`` not None), which is then held.
        probe: (*event,), an event in the support, where the directions are compared; a standard normal draw when None.

    Returns:
        ``(flow, params)``: params is the bijection with all but its floating-point arrays left out (``equinox.partition``),
        so gradients and `jaxflows.fit` reach what flowjax would train: arrays it holds as ``NonTrainable`` get none.

    Raises:
        ValueError: another base, a condition that is missing, unwanted or of the wrong shape, a flow whose data to
            latent direction flowjax does not have, or directions that do not agree at the probe.

    References:
        flowjax: https://github.com/danielward27/flowjax
    """
    if not isinstance(distribution, AbstractTransformed):
        raise ValueError(f"expected a flowjax Transformed distribution; got {type(distribution).__name__}")
    merged = distribution.merge_transforms()
    if not isinstance(merged.base_dist, StandardNormal):
        raise ValueError(
            f"expected a flow on flowjax's StandardNormal or Normal; got a base of {type(merged.base_dist).__name__}"
        )
    held = _checked_condition(merged.cond_shape, condition)
    params, static = eqx.partition(merged.bijection, eqx.is_inexact_array)

    # jitted, so that what flowjax runs in Python is traced once, and not by every use in every program
    @jax.jit
    def encode(params: Params, y: jax.Array) -> jax.Array:
        return eqx.combine(params, static).inverse(y, held)

    @jax.jit
    def decode(params: Params, x: jax.Array) -> jax.Array:
        return eqx.combine(params, static).transform(x, held)

    @jax.jit
    def log_det(params: Params, y: jax.Array) -> jax.Array:
        return eqx.combine(params, static).inverse_and_log_det(y, held)[1]

    event = jax.ShapeDtypeStruct(merged.shape, jnp.result_type(float))
    if not _implemented(encode, params, event):
        raise ValueError(
            "expected a flow with an explicit direction from data to latent; got one that flowjax cannot invert "
            "(build it with invert=True)"
        )
    return from_functions(
        merged.shape, encode, decode if _implemented(decode, params, event) else None, log_det, params=params, probe=probe
    )


def _checked_condition(cond_shape: tuple[int, ...] | None, condition: Any) -> jax.Array | None:
    if cond_shape is None:
        if condition is not None:
            raise ValueError("expected no condition for an unconditional flow; got one")
        return None
    if condition is None:
        raise ValueError(f"expected condition= of shape {cond_shape}, which this conditional flow was trained with; got none")
    held = jnp.asarray(condition, jnp.result_type(float))
    if held.shape != cond_shape:
        raise ValueError(f"expected a condition of shape {cond_shape}; got {held.shape}")
    return held


def _implemented(function: Any, params: Params, event: jax.ShapeDtypeStruct) -> bool:
    try:
        jax.eval_shape(function, params, event)
    except NotImplementedError:
        return False
    return True
