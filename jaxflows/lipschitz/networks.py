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
        coeff: the constant promised.
    """

    init: Callable[..., Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    constrain: Callable[[Params], Params]
    certify: Callable[[Params], jax.Array]
    log_det: Callable[[Params, jax.Array], jax.Array]
    coeff: float


def _check(hidden: tuple[int, ...], coeff: float) -> None:
    if not hidden or any(width < 1 for width in hidden):
        raise ValueError(f"expected hidden widths, at least one and all positive; got {hidden}")
    if not 0.0 < coeff < 1.0:
        raise ValueError(f"expected 0 < coeff < 1; got {coeff}")


def _shrink(weight: jax.Array, norm: jax.Array, bound: float) -> jax.Array:
    return weight / jnp.maximum(1.0, norm / bound).astype(weight.dtype)


def _aim(coeff: float, operators: int) -> float:
    return (coeff * (1.0 - MARGIN)) ** (1.0 / operators)


def _check_shape(seen: tuple[int, ...], meant: tuple[int, ...]) -> None:
    if seen != meant:
        raise ValueError(f"expected an event of shape {meant}, that of the parameters; got {seen}")


def _draw(key: jax.Array, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    # one draw of normals for two arrays: the generator is what takes long to compile in an init
    size = math.prod(first)
    draw = jax.random.normal(key, (size + math.prod(second),))
    return draw[:size].reshape(first), draw[size:].reshape(second)


def _times(weight: jax.Array, t: jax.Array) -> jax.Array:
    return t @ weight


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
    _check(hidden, coeff)
    phi = find_activation(activation)
    bound = _aim(coeff, len(hidden) + 1)

    def init(key: jax.Array, shape: tuple[int, ...]) -> Params:
        size = math.prod(shape)
        inputs = (size, *(phi.widening * width for width in hidden))
        outputs = (*hidden, size)
        layers = []
        for k, n_in, n_out in zip(jax.random.split(key, len(inputs)), inputs, outputs, strict=True):
            weight, start = _draw(k, (n_in, n_out), (n_in,))
            weight = weight / jnp.sqrt(n_in)
            top = leading_vector(functools.partial(_times, weight), start)
            layers.append({"weight": weight, "bias": jnp.zeros(n_out), "beta": jnp.zeros(n_out), "top": top})
        return constrain(layers)

    def apply(params: Params, u: jax.Array) -> jax.Array:
        _check_shape((u.size,), params[0]["top"].shape)
        first = params[0]
        return after_first(params, u.reshape(-1) @ first["weight"] + first["bias"]).reshape(u.shape)

    def after_first(params: Params, t: jax.Array) -> jax.Array:
        for previous, layer in itertools.pairwise(params):
            t = phi.apply(previous["beta"], t) @ layer["weight"] + layer["bias"]
        return t

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        if hidden[0] >= u.size:
            return exact_log_det(lambda t: t + apply(params, t), u)
        # Sylvester's identity: with t = u W and R = d after_first/dt, det(I_d + R W^T) = det(I_h + W^T R), h the first width
        first = params[0]
        t = u.reshape(-1) @ first["weight"] + first["bias"]
        small = first["weight"].T @ jax.jacfwd(functools.partial(after_first, params))(t)
        return jnp.linalg.slogdet(small + jnp.eye(t.size, dtype=t.dtype))[1]

    def constrain(params: Params) -> Params:
        renewed = []
        for layer in params:
            weight = layer["weight"]
            norm, top = power_iteration(functools.partial(_times, weight), layer["top"], POWER_STEPS)
            renewed.append({**layer, "weight": _shrink(weight, norm, bound), "top": top})
        return renewed

    def certify(params: Params) -> jax.Array:
        return _product([dense_norm(layer["weight"]) for layer in params])

    return LipschitzNetwork(init, apply, constrain, certify, log_det, coeff)


def _convolve(kernel: jax.Array, t: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        t[None], kernel, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


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
    _check(channels, coeff)
    if len(kernels) != len(channels) + 1 or any(side % 2 == 0 for side in kernels):
        raise ValueError(f"expected {len(channels) + 1} odd kernel sides; got {kernels}")
    phi = find_activation(activation)
    bound = _aim(coeff, len(kernels))

    def init(key: jax.Array, shape: tuple[int, ...]) -> Params:
        if len(shape) != 3:
            raise ValueError(f"expected an event of shape (height, width, channels); got {shape}")
        height, width, n_event = shape
        inputs = (n_event, *(phi.widening * c for c in channels))
        outputs = (*channels, n_event)
        layers = []
        for k, side, n_in, n_out in zip(jax.random.split(key, len(kernels)), kernels, inputs, outputs, strict=True):
            kernel, start = _draw(k, (side, side, n_in, n_out), (height, width, n_in))
            kernel = kernel / jnp.sqrt(n_in * side * side)
            top = leading_vector(functools.partial(_convolve, kernel), start)
            layers.append({"kernel": kernel, "bias": jnp.zeros(n_out), "beta": jnp.zeros(n_out), "top": top})
        return constrain(layers)

    def apply(params: Params, u: jax.Array) -> jax.Array:
        _check_shape(u.shape, params[0]["top"].shape)
        t = u
        for position, layer in enumerate(params):
            t = _convolve(layer["kernel"], t) + layer["bias"]
            if position < len(params) - 1:
                t = phi.apply(layer["beta"], t)
        return t

    def constrain(params: Params) -> Params:
        renewed = []
        for layer in params:
            operator = functools.partial(_convolve, layer["kernel"])
            norm, top = power_iteration(operator, layer["top"], POWER_STEPS)
            renewed.append({**layer, "kernel": _shrink(layer["kernel"], norm, bound), "top": top})
        return renewed

    def certify(params: Params) -> jax.Array:
        norms = []
        for layer in params:
            operator = functools.partial(_convolve, layer["kernel"])
            norms.append(conv_norm(operator, layer["kernel"], layer["top"].shape))
        return _product(norms)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return exact_log_det(lambda t: t + apply(params, t), u)

    return LipschitzNetwork(init, apply, constrain, certify, log_det, coeff)
