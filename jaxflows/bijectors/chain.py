"""Composition: ``chain`` of different layers, ``scan_chain`` of one layer repeated, compiled once whatever the depth."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, carried, combine, describe, no_work, stay
from jaxflows.bijectors.residual import residual_conv, residual_dense
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.factory import factory
from jaxflows.precision import at_precision


@functools.cache
def chain(*layers: Bijector) -> Bijector:
    """layers[-1] o ... o layers[0], from data to latent. Parameters and paths are tuples, one entry a layer.

    The path of a chain is ``(inner paths, points between the layers)``.
    """
    if not layers:
        raise ValueError("expected at least one layer; got none")

    def output_shape(shape: Shape) -> Shape:
        for bijector in layers:
            shape = bijector.output_shape(shape)
        return shape

    def init(key: jax.Array, shape: Shape) -> Params:
        params = []
        for k, bijector in zip(jax.random.split(key, len(layers)), layers, strict=True):
            params.append(bijector.init(k, shape))
            shape = bijector.output_shape(shape)
        return tuple(params)

    def transform(params: Params, u: jax.Array) -> jax.Array:
        for p, bijector in zip(params, layers, strict=True):
            u = bijector.transform(p, u)
        return u

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        info = no_work(v.dtype)
        for p, bijector in zip(reversed(params), reversed(layers), strict=True):
            v, this = bijector.invert(p, v)
            info = combine(info, this)
        return v, info

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = jnp.zeros((), u.dtype)
        for p, bijector in zip(params, layers, strict=True):
            u, log_det = bijector.forward(p, u)
            total = total + log_det
        return u, total

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = jnp.zeros((), v.dtype)
        for p, bijector in zip(reversed(params), reversed(layers), strict=True):
            v, log_det = bijector.inverse(p, v)
            total = total + log_det
        return v, total

    def estimate(key: jax.Array, estimator: Any, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        total = LogDet.exact(jnp.zeros((), u.dtype))
        for k, p, bijector in zip(jax.random.split(key, len(layers)), params, layers, strict=True):
            u, log_det = bijector.estimate(k, estimator, p, u)
            total = total + log_det
        return u, total

    def trace(params: Params, u: jax.Array) -> tuple[jax.Array, Any]:
        inner, points = [], []
        for p, bijector in zip(params, layers, strict=True):
            u, path = bijector.trace(p, u)
            inner.append(path)
            points.append(u)
        return u, (tuple(inner), tuple(points[:-1]))

    def sweep_forward(params: Params, observation: Any, u: jax.Array, path: Any, v: jax.Array) -> tuple[Any, jax.Array, Any]:
        inner, points, notes = list(path[0]), [*path[1], v], []
        for position, (p, bijector) in enumerate(zip(params, layers, strict=True)):
            start = u if position == 0 else points[position - 1]
            inner[position], points[position], note = bijector.sweep_forward(
                p, observation, start, inner[position], points[position]
            )
            notes.append(note)
            observation = carried(bijector, observation)
        return (tuple(inner), tuple(points[:-1])), points[-1], tuple(notes)

    def sweep_backward(
        params: Params, observation: Any, v: jax.Array, path: Any, u: jax.Array, note: Any
    ) -> tuple[Any, jax.Array]:
        notes = [None] * len(layers) if note is None else note
        observations = [observation]
        for bijector in layers[:-1]:
            observations.append(carried(bijector, observations[-1]))
        inner, points = list(path[0]), [u, *path[1]]
        for position in reversed(range(len(layers))):
            end = v if position == len(layers) - 1 else points[position + 1]
            inner[position], points[position] = layers[position].sweep_backward(
                params[position], observations[position], end, inner[position], points[position], notes[position]
            )
        return (tuple(inner), tuple(points[1:])), points[0]

    moving = [bijector for bijector in layers if bijector.move is not stay]

    def move(u: jax.Array) -> jax.Array:
        for bijector in moving:
            u = bijector.move(u)
        return u

    def move_back(v: jax.Array) -> jax.Array:
        for bijector in reversed(moving):
            v = bijector.move_back(v)
        return v

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        fitted = []
        for p, bijector in zip(params, layers, strict=True):
            fitted.append(bijector.fit_to_data(p, batch))
            batch = jax.vmap(functools.partial(bijector.transform, fitted[-1]))(batch)
        return tuple(fitted)

    def constrain(params: Params) -> Params:
        return tuple(bijector.constrain(p) for p, bijector in zip(params, layers, strict=True))

    def lipschitz(params: Params) -> jax.Array:
        return jnp.max(jnp.stack([bijector.lipschitz(p) for p, bijector in zip(params, layers, strict=True)]))

    return Bijector(
        spec=describe("chain", layers=[json.loads(bijector.spec) for bijector in layers]),
        blocks=sum(bijector.blocks for bijector in layers), explicit=all(bijector.explicit for bijector in layers),
        init=init, output_shape=output_shape, transform=transform,
        invert=invert, forward=forward, inverse=inverse, estimate=estimate, trace=trace, sweep_forward=sweep_forward,
        sweep_backward=sweep_backward, sweep_blocks=sum(bijector.sweep_blocks for bijector in layers),
        move=move if moving else stay,
        move_back=move_back if moving else stay, fit_to_data=fit_to_data,
        constrain=constrain, lipschitz=lipschitz,
    )  # fmt: skip


# copies of an explicit body to an iteration of a scan that is differentiated: what a scan keeps for its gradient it copies
# into stacked arrays, which cost as much as a coupling's own work (half of a spline flow's training step). Compile time
# stays flat beyond
_UNROLLED = 4


def _explicit_scan(step: Callable[..., Any], start: Any, params: Params, *, reverse: bool = False) -> Any:
    """The last carry of `jax.lax.scan`, unrolled where it is differentiated.

    Otherwise a loop is the faster program: it takes a layer's parameters out of their stack right before they are used. Two
    copies to an iteration are as fast in small batches as one and faster in large ones, but a rest of one is not.
    ``step`` closes over no array; the first entry of ``start`` is the event.
    """
    pairs = len(jax.tree.leaves(params)[0]) % 2 == 0

    def unrolled(start: Any, params: Params) -> Any:
        return jax.lax.scan(step, start, params, reverse=reverse, unroll=_UNROLLED)[0]

    @jax.custom_jvp
    def looped(start: Any, params: Params) -> Any:
        return jax.lax.scan(step, start, params, reverse=reverse, unroll=2 if pairs else 1)[0]

    # the rule may be traced when what the caller set is no longer set
    as_set = at_precision(jax.config.jax_default_matmul_precision, unrolled)  # type: ignore[attr-defined]
    looped.defjvp(lambda primals, tangents: jax.jvp(as_set, primals, tangents))
    return looped(start, params)


def _scan(step: Callable[..., Any], start: Any, params: Params, *, reverse: bool = False) -> Any:
    """The last carry of a plain `jax.lax.scan`."""
    return jax.lax.scan(step, start, params, reverse=reverse)[0]


@factory
def scan_chain(body: Bijector, depth: int) -> Bijector:
    """``depth`` copies of ``body``, each with its own parameters, run by `jax.lax.scan`: compile time is flat in depth.

    Parameters have a leading axis of length depth. The path is ``(inner paths, all outputs but the last)``, both stacked.
    Where the body is explicit in both directions, up to four copies are compiled for gradients and for images, else up to two.

    Args:
        body: a layer that keeps the event's shape and does not move its entries.
        depth: number of copies, at least 1.
    """
    if depth < 1:
        raise ValueError(f"expected depth >= 1; got {depth}")
    if body.move is not stay:
        raise ValueError("expected a layer that keeps entries in place; got one that moves them")

    def output_shape(shape: Shape) -> Shape:
        if body.output_shape(shape) != shape:
            raise ValueError(f"expected a layer that keeps the event's shape {shape}; got {body.output_shape(shape)}")
        return shape

    def init(key: jax.Array, shape: Shape) -> Params:
        output_shape(shape)
        return jax.vmap(lambda k: body.init(k, shape))(jax.random.split(key, depth))

    scan = _explicit_scan if body.explicit else _scan

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return scan(lambda t, p: (body.transform(p, t), None), u, params)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        def step(carry: Any, p: Params) -> tuple[Any, None]:
            t, info = carry
            t, this = body.invert(p, t)
            return (t, combine(info, this)), None

        return scan(step, (v, no_work(v.dtype)), params, reverse=True)

    def _accumulate(run: Any, start: jax.Array, params: Params, reverse: bool) -> tuple[jax.Array, jax.Array]:
        def step(carry: Any, p: Params) -> tuple[Any, None]:
            t, total = carry
            t, log_det = run(p, t)
            return (t, total + log_det), None

        return scan(step, (start, jnp.zeros((), start.dtype)), params, reverse=reverse)

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _accumulate(body.forward, u, params, False)

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _accumulate(body.inverse, v, params, True)

    def estimate(key: jax.Array, estimator: Any, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        def step(carry: Any, xs: Any) -> tuple[Any, None]:
            t, total = carry
            p, k = xs
            t, log_det = body.estimate(k, estimator, p, t)
            return (t, total + log_det), None

        start = (u, LogDet.exact(jnp.zeros((), u.dtype)))
        # what a training step differentiates
        unroll = _UNROLLED if body.explicit else 1
        return jax.lax.scan(step, start, (params, jax.random.split(key, depth)), unroll=unroll)[0]

    def trace(params: Params, u: jax.Array) -> tuple[jax.Array, Any]:
        def step(t: jax.Array, p: Params) -> tuple[jax.Array, Any]:
            t, path = body.trace(p, t)
            return t, (path, t)

        v, (inner, points) = jax.lax.scan(step, u, params)
        return v, (inner, points[:-1])

    def sweep_forward(params: Params, observation: Any, u: jax.Array, path: Any, v: jax.Array) -> tuple[Any, jax.Array, Any]:
        def step(t: jax.Array, xs: Any) -> tuple[jax.Array, Any]:
            p, inner, guess = xs
            inner, t, note = body.sweep_forward(p, observation, t, inner, guess)
            return t, (inner, t, note)

        points = jnp.concatenate([path[1], v[None]])
        v, (inner, points, notes) = jax.lax.scan(step, u, (params, path[0], points))
        return (inner, points[:-1]), v, notes

    def sweep_backward(
        params: Params, observation: Any, v: jax.Array, path: Any, u: jax.Array, note: Any
    ) -> tuple[Any, jax.Array]:
        def step(t: jax.Array, xs: Any) -> tuple[jax.Array, Any]:
            p, inner, guess, left = xs
            inner, t = body.sweep_backward(p, observation, t, inner, guess, left)
            return t, (inner, t)

        points = jnp.concatenate([u[None], path[1]])
        u, (inner, points) = jax.lax.scan(step, v, (params, path[0], points, note), reverse=True)
        return (inner, points[1:]), u

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        def step(t: jax.Array, p: Params) -> tuple[jax.Array, Params]:
            p = body.fit_to_data(p, t)
            return jax.vmap(functools.partial(body.transform, p))(t), p

        return jax.lax.scan(step, batch, params)[1]

    def constrain(params: Params) -> Params:
        return jax.vmap(body.constrain)(params)

    def lipschitz(params: Params) -> jax.Array:
        return jnp.max(jax.lax.map(body.lipschitz, params))

    return Bijector(
        spec=describe("scan_chain", body=json.loads(body.spec), depth=depth), blocks=depth * body.blocks,
        explicit=body.explicit, init=init,
        output_shape=output_shape, transform=transform, invert=invert, forward=forward, inverse=inverse,
        estimate=estimate, trace=trace, sweep_forward=sweep_forward, sweep_backward=sweep_backward,
        sweep_blocks=depth * body.sweep_blocks, move=stay, move_back=stay, fit_to_data=fit_to_data,
        constrain=constrain, lipschitz=lipschitz,
    )  # fmt: skip


_DENSE, _CONV = residual_dense(hidden=(8,)), residual_conv(channels=(3, 4))

EXAMPLES = {
    "chain": [(chain(actnorm(over="event"), _DENSE), (5,)), (chain(actnorm(), squeeze(), _CONV), (4, 4, 1))],
    "scan_chain": [(scan_chain(_DENSE, 3), (5,)), (scan_chain(_CONV, 1), (4, 4, 1))],
}
