"""The frame of a convolutional flow over several scales."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.flows.flow import Flow, flow_of


def image_scales(event_shape: Shape, body: Bijector, blocks: int, scales: int) -> Flow:
    """Per scale a squeeze (from the second on), an ActNorm a channel and ``blocks`` copies of ``body``.

    Args:
        event_shape: (height, width, channels), sides divisible by 2^(scales - 1).
        body: a layer that keeps the event's shape.
        blocks: copies of it a scale.
        scales: number of scales.
    """
    layers: list[Bijector] = []
    for scale in range(scales):
        if scale:
            layers.append(squeeze())
        layers += [actnorm(over="channel"), scan_chain(body, blocks)]
    return flow_of(event_shape, chain(*layers))
