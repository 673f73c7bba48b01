"""Glow: affine couplings between invertible 1x1 convolutions (Kingma and Dhariwal 2018)."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.conv1x1 import conv1x1
from jaxflows.bijectors.coupling import affine_coupling
from jaxflows.bijectors.factor_out import factor_out
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def glow(*, event_shape: Shape, scales: int = 2, steps: int = 8, hidden: int = 64, blocks: int = 2, bound: float = 2.0) -> Flow:
    """Per scale a squeeze and ``steps`` of (ActNorm a channel, 1x1 convolution, affine coupling of the channels).

    Half of the channels of a scale go on to the next, the others are latent. Steps are scanned: compile time grows with
    scales, not with steps. One affine map for the whole event comes first, so that linear measurements stay linear
    (docs/design.md). The latent has the shape of the first scale, (height / 2, width / 2, 4 channels).

    Args:
        event_shape: (height, width, channels), sides divisible by 2^scales.
        scales: number of scales.
        steps: steps of flow a scale.
        hidden, blocks: channels and residual blocks of each coupling's network.
        bound: largest |log-scale| of one coupling.

    Cost: ``scales * steps`` evaluations of the network either way.
    """
    if scales < 1:
        raise ValueError(f"expected scales >= 1; got {scales}")
    body = chain(actnorm(over="channel"), conv1x1(), affine_coupling(hidden=hidden, blocks=blocks, network="conv", bound=bound))

    def scale(number: int, channels: int) -> Bijector:
        here = (squeeze(), scan_chain(body, steps))
        if number == scales:
            return chain(*here)
        return chain(*here, factor_out(scale(number + 1, 2 * channels), channels=2 * channels))

    return flow_of(event_shape, chain(actnorm(over="event"), scale(1, event_shape[-1])))
