"""Implicit flows, dense and convolutional (Lu et al. 2021; IVCNF, Appendix D)."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.residual import residual_conv, residual_dense
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of
from jaxflows.flows.image_scales import image_scales


@factory
def implicit(
    *,
    event_shape: Shape,
    blocks: int = 4,
    hidden: int | tuple[int, ...] = 128,
    activation: str = "clipswish",
    coeff: float = 0.95,
) -> Flow:
    """An implicit flow: one affine map for the whole event, then ``blocks`` pairs of a residual block and an inverted one.

        v = (I + h_2)^-1 (I + h_1) u,   that is   v + h_2(v) = u + h_1(u)

    A pair may compress as much as it expands, by up to (1 + coeff) / (1 - coeff) either way, where a residual block only
    reaches 1 + coeff. Both directions solve a fixed point a pair; the boundary sweep solves none.

    Args:
        event_shape: any shape; blocks see it flattened.
        blocks: number of pairs, an affine map for the whole event behind either block.
        hidden: hidden width, or widths, of each residual block.
        activation, coeff: as `jaxflows.lipschitz.networks.dense`.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    first = actnorm(over="event")
    body = _pair(residual_dense(hidden=widths, activation=activation, coeff=coeff), first)
    return flow_of(event_shape, chain(first, scan_chain(body, blocks)))


@factory
def implicit_image(
    *,
    event_shape: Shape,
    blocks: int = 2,
    scales: int = 2,
    channels: tuple[int, ...] = (32, 32),
    kernels: tuple[int, ...] = (3, 1, 3),
    activation: str = "clipswish",
    coeff: float = 0.95,
) -> Flow:
    """A convolutional implicit flow: per scale a squeeze (from the second on), an ActNorm a channel, and ``blocks`` pairs.

    Args:
        event_shape: (height, width, channels), sides divisible by 2^(scales - 1).
        blocks: pairs of a residual block and an inverted one a scale, an ActNorm a channel behind either.
        scales: number of scales.
        channels, kernels, activation, coeff: as `jaxflows.lipschitz.networks.conv`.
    """
    block = residual_conv(channels=channels, kernels=kernels, activation=activation, coeff=coeff)
    return image_scales(event_shape, _pair(block, actnorm(over="channel")), blocks, scales)


def _pair(block: Bijector, norm: Bijector) -> Bijector:
    return chain(block, norm, invert(block), norm)
