"""The residual block v = u + h(u), Lip(h) < 1 (Behrmann et al. 2019; Chen et al. 2019)."""

from __future__ import annotations

from typing import Any

import jax

from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, describe, layer
from jaxflows.factory import factory
from jaxflows.lipschitz import networks
from jaxflows.lipschitz.networks import LipschitzNetwork
from jaxflows.log_det.estimators import Estimator
from jaxflows.solvers.fixed_point import fixed_point


@factory
def residual_dense(*, hidden: tuple[int, ...], activation: str = "clipswish", coeff: float = 0.95) -> Bijector:
    """A fully connected residual block on the flattened event; options as `jaxflows.lipschitz.networks.dense`."""
    network = networks.dense(hidden=hidden, activation=activation, coeff=coeff)
    spec = describe("residual_dense", hidden=list(hidden), activation=activation, coeff=coeff)
    return residual_block(spec, network)


@factory
def residual_conv(
    *, channels: tuple[int, ...], kernels: tuple[int, ...] = (3, 1, 3), activation: str = "clipswish", coeff: float = 0.95
) -> Bijector:
    """A convolutional residual block on (height, width, channels); options as `jaxflows.lipschitz.networks.conv`."""
    network = networks.conv(channels=channels, kernels=kernels, activation=activation, coeff=coeff)
    spec = describe("residual_conv", channels=list(channels), kernels=list(kernels), activation=activation, coeff=coeff)
    return residual_block(spec, network)


def residual_block(spec: str, network: LipschitzNetwork) -> Bijector:
    """The layer v = u + h(u) of any network h with Lip(h) < 1, inverted by a fixed point, described by ``spec``."""

    def init(key: jax.Array, shape: Shape) -> Params:
        return network.init(key, shape)

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return u + network.apply(params, u)

    def step(args: Any, u: jax.Array) -> jax.Array:
        params, v = args
        return v - network.apply(params, u)

    # |step(u) - u| = |v - transform(u)|: the fixed point's residual is the inversion's own; over 1 - coeff, its error's
    # a memory of three: a longer one saves steps that cost less than the mixing does (benchmarks/residual_flow_peers.py)
    solve = fixed_point(step, contraction=network.coeff, history=3)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        return solve((params, v), v)

    def estimate_log_det(key: jax.Array, estimator: Estimator, params: Params, u: jax.Array) -> LogDet:
        return estimator(key, network.apply, network.coeff, params, u)

    def forward_step(params: Params, u: jax.Array, v_guess: jax.Array) -> jax.Array:
        del v_guess
        return transform(params, u)

    def backward_step(params: Params, v: jax.Array, u_guess: jax.Array) -> jax.Array:
        return step((params, v), u_guess)

    def backward_from_image(v: jax.Array, u_guess: jax.Array, image: jax.Array) -> jax.Array:
        # v - h(u_guess), as image = u_guess + h(u_guess)
        return v + (u_guess - image)

    return layer(
        spec=spec, init=init, transform=transform, invert=invert, log_det=network.log_det, estimate_log_det=estimate_log_det,
        forward_step=forward_step, backward_step=backward_step, backward_from_image=backward_from_image,
        constrain=network.constrain, lipschitz=network.certify, blocks=1, explicit=False,
    )  # fmt: skip


EXAMPLES = {
    "residual_conv": [
        (residual_conv(channels=(3, 4)), (4, 3, 2)),
        (residual_conv(channels=(4,), kernels=(1, 3), activation="elu"), (3, 3, 1)),
    ],
    "residual_dense": [
        (residual_dense(hidden=(8,)), (5,)),
        (residual_dense(hidden=(6, 7), activation="lipswish", coeff=0.7), (2, 3)),
        (residual_dense(hidden=(6,), activation="tanh", coeff=0.5), (1,)),
    ],
}
