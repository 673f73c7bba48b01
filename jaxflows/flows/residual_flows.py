"""Residual flows, dense and convolutional."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.logit import logit as logit_layer
from jaxflows.bijectors.residual import residual_conv, residual_dense
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of
from jaxflows.flows.image_scales import image_scales


@factory
def residual(
    *,
    event_shape: Shape,
    blocks: int = 8,
    hidden: int | tuple[int, ...] = 128,
    activation: str = "clipswish",
    coeff: float = 0.95,
    logit: bool = False,
) -> Flow:
    """A dense residual flow: one affine map for the whole event, then ``blocks`` fully connected residual blocks.

    The affine map shares one shift and one scale over the event, so that linear measurements stay linear (docs/design.md).

    Args:
        event_shape: any shape; blocks see it flattened.
        blocks: number of residual blocks.
        hidden: hidden width, or widths, of each block.
        activation: 'clipswish', 'lipswish', 'elu' or 'tanh'.
        coeff: Lipschitz constant of each block, in (0, 1).
        logit: put a logit first, for data in [0, 1]; only masks can then be observed.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    body = residual_dense(hidden=widths, activation=activation, coeff=coeff)
    first = (logit_layer(),) if logit else ()
    return flow_of(event_shape, chain(*first, actnorm(over="event"), scan_chain(body, blocks)))


@factory
def residual_image(
    *,
    event_shape: Shape,
    blocks: int = 4,
    scales: int = 2,
    channels: tuple[int, ...] = (32, 32),
    kernels: tuple[int, ...] = (3, 1, 3),
    activation: str = "clipswish",
    coeff: float = 0.95,
) -> Flow:
    """A convolutional residual flow: per scale a squeeze (from the second on), an ActNorm a channel, and residual blocks.

    Args:
        event_shape: (height, width, channels), sides divisible by 2^(scales - 1).
        blocks: residual blocks a scale.
        scales: number of scales.
        channels, kernels, activation, coeff: as `jaxflows.lipschitz.networks.conv`.
    """
    body = residual_conv(channels=channels, kernels=kernels, activation=activation, coeff=coeff)
    return image_scales(event_shape, body, blocks, scales)
