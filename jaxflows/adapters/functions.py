"""A flow from a user's own functions: encode, decode and log-determinant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.adapters.newton_inverse import newton_inverse
from jaxflows.bijectors.base import Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.flows import Flow, flow_of

# columns of the Jacobian at the probe computed at once
COLUMNS_AT_ONCE = 64


def from_functions(
    event_shape: Shape,
    encode: Callable[[Params, jax.Array], jax.Array],
    decode: Callable[[Params, jax.Array], jax.Array] | None = None,
    log_det: Callable[[Params, jax.Array], jax.Array] | None = None,
    *,
    params: Params = (),
    probe: Any = None,
) -> tuple[Flow, Params]:
    """The flow p(y) = N(g(y); 0, I) |det dg/dy| of an explicit map g = ``encode`` from data to a standard normal latent.

    The functions see ONE event and must be traceable by JAX. They are compared with each other at one event, the probe,
    before anything is built. What no comparison can show: encode and decode exchanged, both with the fitting log_det, is
    a valid flow, of another density.

    Args:
        event_shape: shape of y, and of x.
        encode: ``(params, y) -> x``, data to latent.
        decode: ``(params, x) -> y``, its inverse; Newton's method on ``encode`` when None (`newton_inverse`).
        log_det: ``(params, y) -> log|det dg/dy|``, of ``encode``; exactly, by the Jacobian of ``encode``, when None.
        params: parameters, any pytree of arrays; returned as they are.
        probe: (*event,), an event in the support of the data; a fixed draw from a standard normal when None.

    Returns:
        ``(flow, params)``. ``flow.init`` gives the same params. Every call makes a new flow, and functions compiled for
        one are compiled again for another: call once. `jaxflows.save` refuses it.

    Raises:
        ValueError: shapes that differ from the event's, values that are not finite, a decode that does not return the
            probe, a singular Jacobian there, or a log_det that is not the Jacobian's (or is that of decode).

    Cost: d JVPs of encode and one factorisation, once, for the checks; d JVPs an event where log_det is None.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxflows.adapters import from_functions
        >>> flow, params = from_functions(
        ...     (2,),
        ...     encode=lambda p, y: (y - p["shift"]) / p["scale"],
        ...     decode=lambda p, x: p["scale"] * x + p["shift"],
        ...     log_det=lambda p, y: -jnp.sum(jnp.log(p["scale"])),
        ...     params={"shift": jnp.ones(2), "scale": jnp.full(2, 2.0)},
        ... )
        >>> flow.encode(params, jnp.ones(2)).tolist()
        [0.0, 0.0]
    """
    event_shape = tuple(int(side) for side in event_shape)
    _check(event_shape, encode, decode, log_det, params, _checked_probe(event_shape, probe))
    frozen = jax.tree.map(jnp.asarray, params)

    def init(key: jax.Array, shape: Shape) -> Params:
        del key, shape
        return frozen

    def output_shape(shape: Shape) -> Shape:
        if shape != event_shape:
            raise ValueError(f"expected events of shape {event_shape}, for which the flow was made; got {shape}")
        return shape

    def closed_form(params: Params, x: jax.Array) -> tuple[jax.Array, SolveInfo]:
        assert decode is not None
        return decode(params, x), no_work(x.dtype, evaluations=1)

    def jacobian_log_det(params: Params, y: jax.Array) -> jax.Array:
        return jnp.linalg.slogdet(_jacobian(encode, params, y))[1]

    bijector = layer(
        spec=describe("outside"), init=init, transform=encode, output_shape=output_shape, blocks=1, explicit=decode is not None,
        invert=newton_inverse(encode) if decode is None else closed_form,
        log_det=jacobian_log_det if log_det is None else log_det,
    )  # fmt: skip
    return flow_of(event_shape, bijector), params


def _jacobian(encode: Callable[[Params, jax.Array], jax.Array], params: Params, y: jax.Array) -> jax.Array:
    """G = dg/dy on the flattened event, (d, d), a batch of columns at a time."""

    def column(direction: jax.Array) -> jax.Array:
        return jax.jvp(lambda t: encode(params, t), (y,), (direction.reshape(y.shape),))[1].reshape(-1)

    return jax.lax.map(column, jnp.eye(y.size, dtype=y.dtype), batch_size=COLUMNS_AT_ONCE).T


def _checked_probe(event_shape: Shape, probe: Any) -> jax.Array:
    drawn = np.random.default_rng(0).standard_normal(event_shape) if probe is None else probe
    y = jnp.asarray(drawn, jnp.result_type(float) if probe is None else None)
    if y.shape != event_shape or not jnp.issubdtype(y.dtype, jnp.floating):
        raise ValueError(f"expected a floating-point probe of shape {event_shape}; got {y.dtype} of shape {y.shape}")
    return y


def _check(
    event_shape: Shape,
    encode: Callable[[Params, jax.Array], jax.Array],
    decode: Callable[[Params, jax.Array], jax.Array] | None,
    log_det: Callable[[Params, jax.Array], jax.Array] | None,
    params: Params,
    y: jax.Array,
) -> None:
    """Compare the functions with each other at the event y."""
    functions = {"encode": (encode, event_shape), "decode": (decode, event_shape), "log_det": (log_det, ())}
    given: dict[str, Any] = {name: pair for name, pair in functions.items() if pair[0] is not None}
    for name, (function, shape) in given.items():
        value = jax.eval_shape(function, params, y)
        if jnp.shape(value) != shape:
            raise ValueError(f"expected {name} to return an array of shape {shape}; got shape {jnp.shape(value)}")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"expected {name} to return floating-point numbers; got dtype {value.dtype}")

    # one program, so that what the functions share is compiled once
    @jax.jit
    def values(params: Params, y: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        x = encode(params, y)
        found = {name: function(params, x if name == "decode" else y) for name, (function, _) in given.items()}
        return found, _jacobian(encode, params, y)

    found, jacobian = jax.tree.map(np.asarray, values(params, y))
    for name, value in found.items():
        if not np.all(np.isfinite(value)):
            raise ValueError(f"expected finite values of {name}; got NaN or infinity at the probe (is it inside the support?)")
    # rounding of a deep map, in units of what is compared
    tolerance = 10.0 * float(jnp.finfo(y.dtype).eps) ** 0.5
    if decode is not None:
        error = np.max(np.abs(found["decode"] - np.asarray(y)), initial=0.0)
        if error > tolerance * (1.0 + np.max(np.abs(y), initial=0.0)):
            raise ValueError(f"expected decode(params, encode(params, y)) = y; got an event {error:.2g} away at the probe")
    if not np.all(np.isfinite(jacobian)):
        raise ValueError("expected an encode with a finite Jacobian; got NaN or infinity at the probe")
    singular_values = np.linalg.svd(jacobian, compute_uv=False)
    if np.min(singular_values) <= np.finfo(singular_values.dtype).eps * np.max(singular_values):
        raise ValueError(
            f"expected an invertible encode; got a Jacobian with singular values from {np.min(singular_values):.2g} to "
            f"{np.max(singular_values):.2g} at the probe"
        )
    if log_det is not None:
        _check_log_det(float(found["log_det"]), float(np.sum(np.log(singular_values))), tolerance)


def _check_log_det(given: float, exact: float, tolerance: float) -> None:
    margin = tolerance * (1.0 + abs(exact))
    if abs(given - exact) <= margin:
        return
    reason = ""
    if abs(given + exact) <= margin:
        reason = ": this is the log-determinant of the other direction; negate it, or exchange encode and decode"
    raise ValueError(f"expected log_det = log|det dx/dy| of encode, {exact:.6g} at the probe; got {given:.6g}{reason}")
