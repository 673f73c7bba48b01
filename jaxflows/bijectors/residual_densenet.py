"""The residual block v = u + h(u), h densely connected, Lip(h) < 1 (Perugachi-Diaz et al. 2021, i-DenseNets)."""

from __future__ import annotations

from jaxflows.bijectors.base import Bijector, describe
from jaxflows.bijectors.residual import residual_block
from jaxflows.factory import factory
from jaxflows.lipschitz import densenets


@factory
def residual_densenet(*, hidden: tuple[int, ...], activation: str = "clipswish", coeff: float = 0.95) -> Bijector:
    """A densely connected residual block on the flattened event; options as `jaxflows.lipschitz.densenets.dense_concat`."""
    network = densenets.dense_concat(hidden=hidden, activation=activation, coeff=coeff)
    spec = describe("residual_densenet", hidden=list(hidden), activation=activation, coeff=coeff)
    return residual_block(spec, network)


@factory
def residual_densenet_conv(
    *, channels: tuple[int, ...], kernels: tuple[int, ...] = (3, 3, 1), activation: str = "clipswish", coeff: float = 0.95
) -> Bijector:
    """The same by convolutions, on (height, width, channels); options as `jaxflows.lipschitz.densenets.conv_concat`."""
    network = densenets.conv_concat(channels=channels, kernels=kernels, activation=activation, coeff=coeff)
    options = {"channels": list(channels), "kernels": list(kernels), "activation": activation, "coeff": coeff}
    return residual_block(describe("residual_densenet_conv", **options), network)


EXAMPLES = {
    "residual_densenet": [
        (residual_densenet(hidden=(4, 3)), (5,)),
        (residual_densenet(hidden=(4,), activation="tanh", coeff=0.5), (2, 2)),
    ],
    "residual_densenet_conv": [
        (residual_densenet_conv(channels=(3, 2)), (3, 3, 2)),
        (residual_densenet_conv(channels=(3,), kernels=(1, 3), activation="elu", coeff=0.9), (3, 3, 1)),
    ],
}
