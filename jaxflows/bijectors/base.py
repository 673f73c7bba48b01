"""The contract every layer keeps: a NamedTuple of pure functions on ONE example.

A bijector maps ``u`` (towards the data) to ``v`` (towards the latent). Batching is ``jax.vmap``. Parameters are plain
pytrees of arrays and are always arguments, so everything runs under ``jit``, ``vmap`` and ``grad``. Layers are static:
equal options give the identical object, so a layer can be closed over or passed as a static argument without re-tracing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any
Shape = tuple[int, ...]


class SolveInfo(NamedTuple):
    """What an iterative computation did, returned beside its value; nothing raises on values under ``jit``.

    Attributes:
        residual: largest absolute entry of the equation's defect at the returned value, in the units of the event.
        steps: iterations taken.
        converged: whether ``residual`` met the tolerance.
        evaluations: block evaluations spent: one network applied once, or a layer without one and its check; a JVP or VJP
            counts as two, and K columns of one Jacobian, which share the pass of their event, as K + 1. The inner fixed point
            of an inversion counts each of its steps. The same fixed point inside a forward pass does not: a pass counts
            `Bijector.blocks` whatever its layers, one a block, because ``transform`` returns no report. A pass through an
            inverted residual block costs more than its count, therefore; a sweep, which solves nothing inside, does not.
    """

    residual: jax.Array
    steps: jax.Array
    converged: jax.Array
    evaluations: jax.Array


class LogDet(NamedTuple):
    """A log-determinant with its error bar.

    Attributes:
        value: the estimate of log|det dv/du|, of the map just applied.
        std_error: standard error of ``value``; 0 when exact, infinite when a single probe leaves it unknown.
        truncation_bound: certified bound on the bias of a truncated series; 0 for exact and for unbiased estimators.
    """

    value: jax.Array
    std_error: jax.Array
    truncation_bound: jax.Array

    @staticmethod
    def exact(value: jax.Array) -> LogDet:
        """Wrap a value known without error."""
        zero = jnp.zeros_like(value)
        return LogDet(value, zero, zero)

    def __add__(self, other: LogDet) -> LogDet:  # type: ignore[override]
        """Log-determinants of a composition: values and bounds add, independent errors add in squares."""
        std_error = jnp.hypot(self.std_error, other.std_error)
        return LogDet(self.value + other.value, std_error, self.truncation_bound + other.truncation_bound)


class Bijector(NamedTuple):
    """A layer ``u -> v``. ``forward`` goes from data to latent. Every log-determinant is that of the map just applied.

    Attributes:
        spec: canonical JSON description, enough to build the layer again (`jaxflows.bijectors.registry`).
        blocks: how many block evaluations a pass counts, the unit of every cost reported (see `SolveInfo`).
        explicit: whether ``invert`` costs about as much as ``transform``, as it does in coupling layers, rather than a solve.
        init: ``(key, shape) -> params`` for events of that shape.
        output_shape: ``shape -> shape``; raises ValueError when the layer cannot take the shape.
        transform: ``(params, u) -> v``.
        invert: ``(params, v) -> (u, SolveInfo)``, differentiable through the implicit function theorem where iterative.
        forward: ``(params, u) -> (v, log_det)`` with the exact log|det dv/du|.
        inverse: ``(params, v) -> (u, log_det)`` with the exact log|det du/dv|.
        estimate: ``(key, estimator, params, u) -> (v, LogDet)``, log|det dv/du| by an estimator of `jaxflows.log_det`.
        trace: ``(params, u) -> (v, path)`` where path holds the points strictly inside a composite layer.
        sweep_forward: ``(params, observation, u, path, v) -> (path, v, note)``: renew the observed part of path and v. The
            note holds what the layer computed at these points and can use again on the way back, or None.
        sweep_backward: ``(params, observation, v, path, u, note) -> (path, u)``: renew the hidden part of path and u; the
            note is the one `sweep_forward` left at the same points, or None where there is none.
        sweep_blocks: block evaluations of one sweep forward and back: ``blocks`` where the note saves the way back, twice
            that where it does not.
        move: ``u-shaped -> v-shaped``, where the layer puts each entry; `stay` for layers that keep entries in place.
        move_back: the opposite of ``move``. An observation moves along: `carried`.
        fit_to_data: ``(params, batch_u) -> params``, data-dependent initialisation.
        constrain: ``params -> params``: one update of power-iteration state and a projection onto the invertible set.
        lipschitz: ``params -> bound``, a certified bound on the largest Lipschitz constant of the residual networks.
    """

    spec: str
    blocks: int
    explicit: bool
    init: Callable[..., Params]
    output_shape: Callable[[Shape], Shape]
    transform: Callable[..., jax.Array]
    invert: Callable[..., tuple[jax.Array, SolveInfo]]
    forward: Callable[..., tuple[jax.Array, jax.Array]]
    inverse: Callable[..., tuple[jax.Array, jax.Array]]
    estimate: Callable[..., tuple[jax.Array, LogDet]]
    trace: Callable[..., tuple[jax.Array, Any]]
    sweep_forward: Callable[..., tuple[Any, jax.Array, Any]]
    sweep_backward: Callable[..., tuple[Any, jax.Array]]
    sweep_blocks: int
    move: Callable[[jax.Array], jax.Array]
    move_back: Callable[[jax.Array], jax.Array]
    fit_to_data: Callable[..., Params]
    constrain: Callable[..., Params]
    lipschitz: Callable[..., jax.Array]


def describe(kind: str, /, **options: Any) -> str:
    """Canonical JSON description of a layer: its registry name and its static options."""
    return json.dumps({"bijector": kind, **options}, sort_keys=True)


def no_work(dtype: Any = jnp.float32, *, evaluations: int | jax.Array = 0) -> SolveInfo:
    """The info of a computation in closed form, of so many block evaluations."""
    spent = jnp.asarray(evaluations, jnp.int32)
    return SolveInfo(jnp.zeros((), dtype), jnp.zeros((), jnp.int32), jnp.ones((), bool), spent)


def combine(first: SolveInfo, second: SolveInfo) -> SolveInfo:
    """The info of two computations done one after the other."""
    return SolveInfo(
        jnp.maximum(first.residual, second.residual),
        jnp.maximum(first.steps, second.steps),
        first.converged & second.converged,
        first.evaluations + second.evaluations,
    )


def stay(value: Any) -> Any:
    """The identity, by which a layer says that it moves no entry."""
    return value


def carried(bijector: Bijector, observation: Any) -> Any:
    """The observation of u as an observation of v, entries moved as the layer moves them."""
    return observation if bijector.move is stay else observation.moved(bijector.move, bijector.move_back)


def _keep_params(params: Params, batch: jax.Array) -> Params:
    del batch
    return params


def _zero_bound(params: Params) -> jax.Array:
    del params
    return jnp.zeros(())


def layer(
    *,
    spec: str,
    init: Callable[..., Params],
    transform: Callable[..., jax.Array],
    invert: Callable[..., tuple[jax.Array, SolveInfo]],
    log_det: Callable[[Params, jax.Array], jax.Array],
    estimate_log_det: Callable[..., LogDet] | None = None,
    forward_step: Callable[..., jax.Array] | None = None,
    backward_step: Callable[..., jax.Array] | None = None,
    backward_from_image: Callable[..., jax.Array] | None = None,
    output_shape: Callable[[Shape], Shape] = stay,
    move: Callable[[jax.Array], jax.Array] = stay,
    move_back: Callable[[jax.Array], jax.Array] = stay,
    fit_to_data: Callable[..., Params] = _keep_params,
    constrain: Callable[..., Params] = stay,
    lipschitz: Callable[..., jax.Array] = _zero_bound,
    blocks: int = 0,
    explicit: bool = True,
) -> Bijector:
    """Build a bijector that is not a composite from the few functions that tell it apart.

    Args:
        spec: canonical JSON from `describe`.
        init: ``(key, shape) -> params``.
        transform: ``(params, u) -> v``.
        invert: ``(params, v) -> (u, SolveInfo)``.
        log_det: ``(params, u) -> log|det dv/du|``, exact.
        estimate_log_det: ``(key, estimator, params, u) -> LogDet``; the exact one when left out.
        forward_step: ``(params, u, v_guess) -> v``, explicit; ``transform`` when left out.
        backward_step: ``(params, v, u_guess) -> u``, explicit; the closed-form inverse when left out.
        backward_from_image: ``(v, u_guess, image) -> u``, the value of ``backward_step`` for less, given the value of
            ``forward_step`` at the same u_guess; None for a layer that cannot use it.
        output_shape, move, move_back, fit_to_data, constrain, lipschitz, blocks, explicit: as in `Bijector`.

    Returns:
        The bijector, whose path is empty.
    """
    step_forward = forward_step or (lambda params, u, v_guess: transform(params, u))
    step_backward = backward_step or (lambda params, v, u_guess: invert(params, v)[0])

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return transform(params, u), log_det(params, u)

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, _ = invert(params, v)
        return u, -log_det(params, u)

    def estimate(key: jax.Array, estimator: Any, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        if estimate_log_det is None:
            return transform(params, u), LogDet.exact(log_det(params, u))
        return transform(params, u), estimate_log_det(key, estimator, params, u)

    def trace(params: Params, u: jax.Array) -> tuple[jax.Array, Any]:
        return transform(params, u), ()

    def sweep_forward(
        params: Params, observation: Any, u: jax.Array, path: Any, v: jax.Array
    ) -> tuple[Any, jax.Array, jax.Array | None]:
        image = step_forward(params, u, v)
        v = v + carried(bijector, observation).observed_part(image - v)
        return path, v, None if backward_from_image is None else image

    def sweep_backward(
        params: Params, observation: Any, v: jax.Array, path: Any, u: jax.Array, note: jax.Array | None
    ) -> tuple[Any, jax.Array]:
        if note is None or backward_from_image is None:
            renewed = step_backward(params, v, u)
        else:
            renewed = backward_from_image(v, u, note)
        return path, u + observation.hidden_part(renewed - u)

    bijector = Bijector(
        spec=spec, blocks=blocks, explicit=explicit, init=init, output_shape=output_shape, transform=transform, invert=invert,
        forward=forward, inverse=inverse, estimate=estimate, trace=trace, sweep_forward=sweep_forward,
        sweep_backward=sweep_backward, sweep_blocks=2 * blocks if backward_from_image is None else blocks,
        move=move, move_back=move_back, fit_to_data=fit_to_data, constrain=constrain, lipschitz=lipschitz,
    )  # fmt: skip
    return bijector
