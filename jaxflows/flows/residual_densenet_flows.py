"""Residual flows of densely connected blocks, dense and convolutional (i-DenseNets)."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.residual_densenet import residual_densenet as densenet_layer
from jaxflows.bijectors.residual_densenet import residual_densenet_conv
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of
from jaxflows.flows.image_scales import image_scales


@factory
def residual_densenet(
    *,
    event_shape: Shape,
    blocks: int = 8,
    hidden: int | tuple[int, ...] = (64, 64),
    activation: str = "clipswish",
    coeff: float = 0.95,
) -> Flow:
    """One affine map for the whole event, then ``blocks`` densely connected residual blocks.

    Args:
        event_shape: any shape; blocks see it flattened.
        blocks: number of residual blocks.
        hidden: growth, or growths, of each block's concatenations.
        activation, coeff: as `jaxflows.lipschitz.densenets.dense_concat`.
    """
    growth = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    body = densenet_layer(hidden=growth, activation=activation, coeff=coeff)
    return flow_of(event_shape, chain(actnorm(over="event"), scan_chain(body, blocks)))


@factory
def residual_densenet_image(
    *,
    event_shape: Shape,
    blocks: int = 4,
    scales: int = 2,
    channels: tuple[int, ...] = (16, 16),
    kernels: tuple[int, ...] = (3, 3, 1),
    activation: str = "clipswish",
    coeff: float = 0.95,
) -> Flow:
    """Per scale a squeeze (from the second on), an ActNorm a channel, and densely connected convolutional residual blocks.

    Args:
        event_shape: (height, width, channels), sides divisible by 2^(scales - 1).
        blocks: residual blocks a scale.
        scales: number of scales.
        channels, kernels, activation, coeff: as `jaxflows.lipschitz.densenets.conv_concat`.
    """
    body = residual_densenet_conv(channels=channels, kernels=kernels, activation=activation, coeff=coeff)
    return image_scales(event_shape, body, blocks, scales)
