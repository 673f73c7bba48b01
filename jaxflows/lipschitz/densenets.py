"""Densely connected networks h with a certified Lipschitz constant (Perugachi-Diaz et al. 2021, i-DenseNets).

    t_{k+1} = concat(cos(a_k) t_k, sin(a_k) phi(A_k t_k + b_k)),   h = A_out t_K + b_out
    Lip(h) <= ||A_out||_2 prod_k sqrt(cos(a_k)^2 + sin(a_k)^2 ||A_k||_2^2) <= coeff

The paper learns weights (eta_1, eta_2) and divides them by their 2-norm; the angle a_k is the same pair, of unit norm for
any raw value. The constraint is kept by projection as in `jaxflows.lipschitz.networks`: ||A_k|| at most one, so that each
concatenation has constant one, and ||A_out|| at most coeff.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.factory import factory
from jaxflows.lipschitz import networks
from jaxflows.lipschitz.activations import Activation
from jaxflows.lipschitz.activations import activation as find_activation
from jaxflows.lipschitz.networks import MARGIN, LipschitzNetwork, Params
from jaxflows.lipschitz.spectral_norm import dense_norm
from jaxflows.log_det.jacobian import exact_log_det


class _Operators(NamedTuple):
    """What the layers of a network are made of: matrices, or convolutions.

    Attributes:
        arrange: ``event -> array`` whose last axis the layers act on.
        draw: ``(key, shape, position, n_in, n_out) -> layer`` for events of that shape.
        apply: ``(layer, t) -> A t + b``.
        renew: ``(layer, bound) -> layer``, one projection.
        norm: ``layer -> bound`` on ||A||_2, certified.
    """

    arrange: Callable[[jax.Array], jax.Array]
    draw: Callable[..., Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    renew: Callable[[Params, float], Params]
    norm: Callable[[Params], jax.Array]


def _dense_draw(key: jax.Array, shape: tuple[int, ...], position: int, n_in: int, n_out: int) -> Params:
    del shape, position
    return networks.dense_layer(key, n_in, n_out)


_DENSE = _Operators(
    arrange=jnp.ravel,
    draw=_dense_draw,
    apply=networks.apply_dense,
    renew=networks.renew_dense,
    norm=lambda layer: dense_norm(layer["weight"]),
)


@factory
def dense_concat(*, hidden: tuple[int, ...], activation: str = "clipswish", coeff: float = 0.95) -> LipschitzNetwork:
    """A densely connected network on the flattened event.

    Args:
        hidden: growth of each concatenation, before the activation's widening; any depth.
        activation: a name of `jaxflows.lipschitz.activations`.
        coeff: the Lipschitz constant, in (0, 1).

    Cost: ``2 d (d + hidden)`` multiplications forward for one concatenation (3 ``hidden`` with clipswish); the exact
    log-determinant costs d JVPs and an O(d^3) factorisation.
    """
    networks.check_widths(hidden, coeff)
    return _densely_connected(hidden, find_activation(activation), coeff, _DENSE, math.prod)


@factory
def conv_concat(
    *, channels: tuple[int, ...], kernels: tuple[int, ...] = (3, 3, 1), activation: str = "clipswish", coeff: float = 0.95
) -> LipschitzNetwork:
    """A densely connected convolutional network on events of shape (height, width, channels), 'SAME' padding, stride 1.

    Args:
        channels: growth of each concatenation along the channels, before the activation's widening.
        kernels: odd kernel sides, one more than ``channels``.
        activation: a name of `jaxflows.lipschitz.activations`.
        coeff: the Lipschitz constant, in (0, 1).
    """
    networks.check_widths(channels, coeff)
    networks.check_kernels(channels, kernels)

    def draw(key: jax.Array, shape: tuple[int, ...], position: int, n_in: int, n_out: int) -> Params:
        height, width, _ = shape
        return networks.conv_layer(key, (height, width), kernels[position], n_in, n_out)

    operators = _Operators(jnp.asarray, draw, networks.apply_conv, networks.renew_conv, networks.conv_layer_norm)
    return _densely_connected(channels, find_activation(activation), coeff, operators, lambda s: networks.image_shape(s)[-1])


def _densely_connected(
    growth: tuple[int, ...],
    phi: Activation,
    coeff: float,
    operators: _Operators,
    width: Callable[[tuple[int, ...]], int],
) -> LipschitzNetwork:
    """The network of the given growths, the last axis of arranged events being ``width(shape)`` wide."""
    # each kept a little under its bound for the lag of power iteration
    bounds = [1.0 - MARGIN] * len(growth) + [coeff * (1.0 - MARGIN)]

    def init(key: jax.Array, shape: tuple[int, ...]) -> Params:
        n_event = width(shape)
        n_in, layers = n_event, []
        for position, (k, n_out) in enumerate(zip(jax.random.split(key, len(bounds)), (*growth, n_event), strict=True)):
            layers.append(operators.draw(k, shape, position, n_in, n_out))
            n_in += phi.widening * n_out
        # the paper's start: both parts weigh the same
        layers = [{**layer, "angle": jnp.full((), jnp.pi / 4, jnp.result_type(float))} for layer in layers[:-1]] + layers[-1:]
        return constrain(layers)

    def apply(params: Params, u: jax.Array) -> jax.Array:
        t = operators.arrange(u)
        networks.check_shape(t.shape, params[0]["top"].shape)
        for layer in params[:-1]:
            new = phi.apply(layer["beta"], operators.apply(layer, t))
            t = jnp.concatenate([jnp.cos(layer["angle"]) * t, jnp.sin(layer["angle"]) * new], axis=-1)
        return operators.apply(params[-1], t).reshape(u.shape)

    def constrain(params: Params) -> Params:
        return [operators.renew(layer, bound) for layer, bound in zip(params, bounds, strict=True)]

    def certify(params: Params) -> jax.Array:
        product = operators.norm(params[-1])
        for layer in params[:-1]:
            product = product * jnp.hypot(jnp.cos(layer["angle"]), jnp.sin(layer["angle"]) * operators.norm(layer))
        return product

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return exact_log_det(lambda t: t + apply(params, t), u)

    return LipschitzNetwork(init, apply, constrain, certify, log_det, coeff)
