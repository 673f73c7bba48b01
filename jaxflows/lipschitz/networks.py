"""Networks h with a certified Lipschitz constant, the inside of a residual block u + h(u).

    h = A_k o phi o A_{k-1} o ... o phi o A_1,   Lip(h) <= prod ||A_i||_2 <= coeff

Each A_i is a matrix or a 'SAME'-padded convolution; phi is an activation of Lipschitz constant one. The constraint is
kept by projection: `constrain` renews each operator's power-iteration vector and divides the weights by
max(1, ||A_i|| / aim^(1/k)), after Gouk et al. 2021 (Regularisation of neural networks by enforcing Lipschitz
continuity). So evaluating h needs no norm at all, which is what makes the solvers' inner loops cheap. Power iteration
lags a little below the norm; ``aim`` is a thousandth under coeff so that the true constant stays at or under coeff.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.factory import factory
from jaxflows.lipschitz.activations import activation as find_activation
from jaxflows.lipschitz.spectral_norm import conv_norm, dense_norm, leading_vector, power_iteration
from jaxflows.log_det.jacobian import exact_log_det
from jaxflows.networks.convolution import convolution

Params = Any

# the part of coeff left to the lag of power iteration
MARGIN = 1e-3
# power iterations a projection: on one event, so negligible beside a batch
POWER_STEPS = 3


class LipschitzNetwork(NamedTuple):
    """A map h with Lip(h) <= coeff, event shape in and out.

    Attributes:
        init: ``(key, shape) -> params``, already inside the constraint.
        apply: ``(params, u) -> h(u)``.
        constrain: ``params -> params``, `POWER_STEPS` power iterations and the projection.
        certify: ``params -> bound`` on Lip(h), from `dense_norm` or `conv_norm`: not an estimate.
        log_det: ``(params, u) -> log|det(I + dh/du)|``, exact.
        coeff: the constant promised.
    """

    init: Callable[..., Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    constrain: Callable[[Params], Params]
    certify: Callable[[Params], jax.Array]
    log_det: Callable[[Params, jax.Array], jax.Array]
    coeff: float


def check_widths(hidden: tuple[int, ...], coeff: float) -> None:
    """Raise ValueError for options that no network can have."""
    if not hidden or any(width < 1 for width in hidden):
        raise ValueError(f"expected hidden widths, at least one and all positive; got {hidden}")
    if not 0.0 < coeff < 1.0:
        raise ValueError(f"expected 0 < coeff < 1; got {coeff}")


def check_kernels(channels: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    """Raise ValueError unless there is one odd kernel side more than there are hidden layers."""
    if len(kernels) != len(channels) + 1 or any(side % 2 == 0 for side in kernels):
        raise ValueError(f"expected {len(channels) + 1} odd kernel sides; got {kernels}")


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape as (height, width, channels); raises ValueError when it is none."""
    if len(shape) != 3:
        raise ValueError(f"expected an event of shape (height, width, channels); got {shape}")
    return shape[0], shape[1], shape[2]


def _shrink(weight: jax.Array, norm: jax.Array, bound: float) -> jax.Array:
    return weight / jnp.maximum(1.0, norm / bound).astype(weight.dtype)


def _aim(coeff: float, operators: int) -> float:
    return (coeff * (1.0 - MARGIN)) ** (1.0 / operators)


def check_shape(seen: tuple[int, ...], meant: tuple[int, ...]) -> None:
    """Raise ValueError when an event has not the shape that the parameters are for."""
    if seen != meant:
        raise ValueError(f"expected an event of shape {meant}, that of the parameters; got {seen}")


def _draw(key: jax.Array, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    # one draw of normals for two arrays: the generator is what takes long to compile in an init
    size = math.prod(first)
    draw = jax.random.normal(key, (size + math.prod(second),))
    return draw[:size].reshape(first), draw[size:].reshape(second)


def _times(weight: jax.Array, t: jax.Array) -> jax.Array:
    return t @ weight


def dense_layer(key: jax.Array, n_in: int, n_out: int) -> Params:
    """A fully connected layer with its power-iteration vector, not constrained yet."""
    weight, start = _draw(key, (n_in, n_out), (n_in,))
    weight = weight / jnp.sqrt(n_in)
    top = leading_vector(functools.partial(_times, weight), start)
    return {"weight": weight, "bias": jnp.zeros(n_out), "beta": jnp.zeros(n_out), "top": top}


def apply_dense(layer: Params, t: jax.Array) -> jax.Array:
    """The matrix and its bias."""
    return t @ layer["weight"] + layer["bias"]


def renew_dense(layer: Params, bound: float) -> Params:
    """The layer after `POWER_STEPS` power iterations, its weight divided so that their norm is at most ``bound``."""
    weight = layer["weight"]
    norm, top = power_iteration(functools.partial(_times, weight), layer["top"], POWER_STEPS)
    return {**layer, "weight": _shrink(weight, norm, bound), "top": top}


def _product(norms: list[jax.Array]) -> jax.Array:
    return jnp.prod(jnp.stack(norms))


@factory
def dense(*, hidden: tuple[int, ...], activation: str = "clipswish", coeff: float = 0.95) -> LipschitzNetwork:
    """A fully connected network on the flattened event.

    Args:
        hidden: widths of the hidden layers; any depth.
        activation: a name of `jaxflows.lipschitz.activations`.
        coeff: the Lipschitz constant, in (0, 1).

    Cost: ``2 d hidden`` multiplications forward for one hidden layer (3 with clipswish). The exact log-determinant costs
    as many JVPs as the first layer is wide, when it is narrower than the event, and a factorisation of that size.
    """
    check_widths(hidden, coeff)
    phi = find_activation(activation)
    bound = _aim(coeff, len(hidden) + 1)

    def init(key: jax.Array, shape: tuple[int, ...]) -> Params:
        size = math.prod(shape)
        inputs = (size, *(phi.widening * width for width in hidden))
        outputs = (*hidden, size)
        keys = jax.random.split(key, len(inputs))
        return constrain([dense_layer(*sizes) for sizes in zip(keys, inputs, outputs, strict=True)])

    def apply(params: Params, u: jax.Array) -> jax.Array:
        check_shape((u.size,), params[0]["top"].shape)
        return after_first(params, apply_dense(params[0], u.reshape(-1))).reshape(u.shape)

    def after_first(params: Params, t: jax.Array) -> jax.Array:
        for previous, layer in itertools.pairwise(params):
            t = apply_dense(layer, phi.apply(previous["beta"], t))
        return t

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        if hidden[0] >= u.size:
            return exact_log_det(lambda t: t + apply(params, t), u)
        # Sylvester's identity: with t = u W and R = d after_first/dt, det(I_d + R W^T) = det(I_h + W^T R), h the first width
        t = apply_dense(params[0], u.reshape(-1))
        small = params[0]["weight"].T @ jax.jacfwd(functools.partial(after_first, params))(t)
        return jnp.linalg.slogdet(small + jnp.eye(t.size, dtype=t.dtype))[1]

    def constrain(params: Params) -> Params:
        return [renew_dense(layer, bound) for layer in params]

    def certify(params: Params) -> jax.Array:
        return _product([dense_norm(layer["weight"]) for layer in params])

    return LipschitzNetwork(init, apply, constrain, certify, log_det, coeff)


def _convolve(kernel: jax.Array, t: jax.Array) -> jax.Array:
    return convolution(t, kernel)


def conv_layer(key: jax.Array, extent: tuple[int, int], side: int, n_in: int, n_out: int) -> Params:
    """A convolution on images of ``extent`` (height, width) with its power-iteration vector, not constrained yet."""
    kernel, start = _draw(key, (side, side, n_in, n_out), (*extent, n_in))
    kernel = kernel / jnp.sqrt(n_in * side * side)
    top = leading_vector(functools.partial(_convolve, kernel), start)
    return {"kernel": kernel, "bias": jnp.zeros(n_out), "beta": jnp.zeros(n_out), "top": top}


def apply_conv(layer: Params, t: jax.Array) -> jax.Array:
    """The convolution and its bias."""
    return _convolve(layer["kernel"], t) + layer["bias"]


def renew_conv(layer: Params, bound: float) -> Params:
    """The layer after `POWER_STEPS` power iterations, its kernel divided so that their norm is at most ``bound``."""
    norm, top = power_iteration(functools.partial(_convolve, layer["kernel"]), layer["top"], POWER_STEPS)
    return {**layer, "kernel": _shrink(layer["kernel"], norm, bound), "top": top}


def conv_layer_norm(layer: Params) -> jax.Array:
    """A bound on the norm of the layer's operator, `conv_norm`."""
    return conv_norm(functools.partial(_convolve, layer["kernel"]), layer["kernel"], layer["top"].shape)


@factory
def conv(
    *, channels: tuple[int, ...], kernels: tuple[int, ...] = (3, 1, 3), activation: str = "clipswish", coeff: float = 0.95
) -> LipschitzNetwork:
    """A convolutional network on events of shape (height, width, channels), 'SAME' padding, stride 1.

    The norm constrained is that of the operator really applied, zero padding included, at the event's own size; the norm
    of the reshaped kernel is not a bound (`shared/research/flow_libraries.md`, 1c).

    Args:
        channels: widths of the hidden layers.
        kernels: odd kernel sides, one more than ``channels``.
        activation: a name of `jaxflows.lipschitz.activations`.
        coeff: the Lipschitz constant, in (0, 1).
    """
    check_widths(channels, coeff)
    check_kernels(channels, kernels)
    phi = find_activation(activation)
    bound = _aim(coeff, len(kernels))

    def init(key: jax.Array, shape: tuple[int, ...]) -> Params:
        height, width, n_event = image_shape(shape)
        inputs = (n_event, *(phi.widening * c for c in channels))
        outputs = (*channels, n_event)
        keys = jax.random.split(key, len(kernels))
        sizes = zip(keys, kernels, inputs, outputs, strict=True)
        return constrain([conv_layer(k, (height, width), *rest) for k, *rest in sizes])

    def apply(params: Params, u: jax.Array) -> jax.Array:
        check_shape(u.shape, params[0]["top"].shape)
        t = u
        for position, layer in enumerate(params):
            t = apply_conv(layer, t)
            if position < len(params) - 1:
                t = phi.apply(layer["beta"], t)
        return t

    def constrain(params: Params) -> Params:
        return [renew_conv(layer, bound) for layer in params]

    def certify(params: Params) -> jax.Array:
        return _product([conv_layer_norm(layer) for layer in params])

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return exact_log_det(lambda t: t + apply(params, t), u)

    return LipschitzNetwork(init, apply, constrain, certify, log_det, coeff)
