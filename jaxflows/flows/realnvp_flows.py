"""RealNVP: affine coupling flows (Dinh et al. 2017, Density estimation using Real NVP)."""

from __future__ import annotations

import functools

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.coupling import affine_coupling, alternating
from jaxflows.bijectors.factor_out import factor_out
from jaxflows.bijectors.squeeze import squeeze
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def realnvp(
    *, event_shape: Shape, layers: int = 8, hidden: int = 128, blocks: int = 2, split: str = "checkerboard", bound: float = 2.0
) -> Flow:
    """One affine map for the whole event, then ``layers`` affine couplings of alternating parity on the flat event.

    The first map shares one shift and one scale over the event, so that linear measurements stay linear (docs/design.md).
    Both directions are explicit: a density and a sample each cost ``layers`` network evaluations, whatever the depth
    compile time is that of two layers.

    Args:
        event_shape: any shape of at least two entries; couplings see it flattened.
        layers: number of couplings, even.
        hidden, blocks: width and residual blocks of each coupling's network.
        split: 'checkerboard' or 'half'.
        bound: largest |log-scale| of one coupling.
    """
    make = functools.partial(affine_coupling, hidden=hidden, blocks=blocks, split=split, bound=bound)
    return flow_of(event_shape, chain(actnorm(over="event"), alternating(make, layers)))


@factory
def realnvp_image(
    *, event_shape: Shape, scales: int = 3, layers: int = 4, hidden: int = 32, blocks: int = 8, bound: float = 2.0
) -> Flow:
    """Multi-scale RealNVP on images (Sec. 3.6), the base model of Whang et al. 2021 (their Table 3, MNIST, by default).

    Per scale but the last: ``layers`` couplings on checkerboards, a squeeze, ``layers`` couplings on channels; half of the
    channels then go on to the next scale. The last scale has its checkerboards alone. One affine map for the whole event
    comes first, so that linear measurements stay linear (docs/design.md). Couplings are scanned in pairs: compile time
    grows with scales, not with layers nor blocks.

    Args:
        event_shape: (height, width, channels), sides divisible by 2^(scales - 1).
        scales: number of scales.
        layers: couplings of each kind a scale, even.
        hidden, blocks: channels and residual blocks of each coupling's network.
        bound: largest |log-scale| of one coupling.

    Cost: ``(2 scales - 1) layers`` evaluations of the network either way.
    """
    if scales < 1:
        raise ValueError(f"expected scales >= 1; got {scales}")
    make = functools.partial(affine_coupling, hidden=hidden, blocks=blocks, network="conv", bound=bound)
    checkerboards = alternating(functools.partial(make, split="checkerboard"), layers)

    def scale(number: int, channels: int) -> Bijector:
        if number == scales:
            return checkerboards
        on_channels = alternating(functools.partial(make, split="half"), layers)
        going_on = factor_out(scale(number + 1, 2 * channels), channels=2 * channels)
        return chain(checkerboards, squeeze(), on_channels, going_on)

    return flow_of(event_shape, chain(actnorm(over="event"), scale(1, event_shape[-1])))
