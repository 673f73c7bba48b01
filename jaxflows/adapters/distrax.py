"""A flow built with distrax (DeepMind)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp

from jaxflows.adapters.functions import from_functions
from jaxflows.bijectors.base import Params, Shape
from jaxflows.flows import Flow


def from_distrax(
    source: Any, params: Params = (), *, event_shape: Shape | None = None, probe: Any = None
) -> tuple[Flow, Params]:
    """A distrax flow as a `jaxflows.Flow`: encode is the bijector's inverse, decode its forward.

    A normal base with any mean and covariance is whitened, its affine map being a layer like the others.

    Args:
        source: one of

            - ``distrax.Transformed``, nested or not, on any of distrax's multivariate normals or ``Independent(Normal)``;
            - a bijector from latent to data, on a standard normal base of shape ``event_shape``;
            - a function from params to either of these, for parameters that can be trained, mapped over and differentiated
              (with haiku: ``lambda params: model.apply(params)``, of a transformed function without rng that builds the
              distribution).

            The first two hold their arrays inside: params is then an empty tuple.
        params: what the function is called with, any pytree of arrays.
        event_shape: shape of an event; needed for a bijector alone.
        probe: (*event,), an event in the support, where the directions are compared; a standard normal draw when None.

    Returns:
        ``(flow, params)``.

    Raises:
        ValueError: another base, a batch of distributions, an event_shape that is missing or not the distribution's, a
            bijector without inverse, or directions that do not agree at the probe.

    References:
        distrax: https://github.com/google-deepmind/distrax
    """
    is_object = isinstance(source, distrax.Distribution | distrax.Bijector)
    if not is_object and not callable(source):
        raise ValueError(f"expected a distrax distribution, bijector or a function that makes one; got {type(source).__name__}")
    if is_object and jax.tree.leaves(params):
        raise ValueError("expected params with a function params -> distribution only; got them with an object")
    make: Callable[[Params], Any] = (lambda params: source) if is_object else source
    shape = _event_shape(make(params), event_shape)

    def encode_and_log_det(params: Params, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        base, bijectors = _parts(make(params))
        total = jnp.zeros((), y.dtype)
        for bijector in bijectors:
            y, log_det = bijector.inverse_and_log_det(y)
            total = total + jnp.sum(log_det)
        loc, scale = _loc_and_scale(base)
        return (y - loc) / scale, total - jnp.sum(jnp.log(jnp.broadcast_to(scale, y.shape)))

    def encode(params: Params, y: jax.Array) -> jax.Array:
        return encode_and_log_det(params, y)[0]

    def decode(params: Params, x: jax.Array) -> jax.Array:
        base, bijectors = _parts(make(params))
        loc, scale = _loc_and_scale(base)
        y = x * scale + loc
        for bijector in reversed(bijectors):
            y = bijector.forward(y)
        return y

    def log_det(params: Params, y: jax.Array) -> jax.Array:
        return encode_and_log_det(params, y)[1]

    try:
        jax.eval_shape(encode, params, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    except NotImplementedError as error:
        raise ValueError(f"expected a bijector with an inverse, from data to latent; got one without ({error})") from None
    return from_functions(shape, encode, decode, log_det, params=params, probe=probe)


def _parts(made: Any) -> tuple[Any, list[Any]]:
    """The innermost base (None for a bijector alone) and the bijectors from the data down to it."""
    if isinstance(made, distrax.Bijector):
        return None, [made]
    bijectors = []
    while isinstance(made, distrax.Transformed):
        bijectors.append(made.bijector)
        made = made.distribution
    return made, bijectors


def _loc_and_scale(base: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of the base. distrax's multivariate normals are Transformed: `_parts` went through them."""
    if base is None:
        return 0.0, 1.0
    inner = base.distribution if isinstance(base, distrax.Independent) else base
    if not isinstance(inner, distrax.Normal):
        raise ValueError(f"expected a flow on a multivariate or independent normal base; got {type(inner).__name__}")
    return inner.loc, inner.scale


def _event_shape(made: Any, event_shape: Shape | None) -> Shape:
    if isinstance(made, distrax.Bijector):
        if event_shape is None:
            raise ValueError("expected event_shape together with a bijector alone; got none")
        shape = tuple(int(side) for side in event_shape)
        if made.event_ndims_in not in (0, len(shape)):
            raise ValueError(
                f"expected a bijector on events of {len(shape)} dimensions, {shape}; got one on events of {made.event_ndims_in}"
            )
        return shape
    if not isinstance(made, distrax.Transformed):
        raise ValueError(f"expected distrax.Transformed or a distrax bijector; got {type(made).__name__}")
    if made.batch_shape:
        raise ValueError(
            f"expected one distribution; got a batch of shape {made.batch_shape} (put distrax.Independent around the base "
            "and distrax.Block around the bijector)"
        )
    _loc_and_scale(_parts(made)[0])
    if event_shape is not None and tuple(event_shape) != made.event_shape:
        raise ValueError(f"expected event_shape {made.event_shape}, the distribution's own; got {tuple(event_shape)}")
    return tuple(made.event_shape)
