"""RealNVP: affine coupling flows (Dinh et al. 2017, Density estimation using Real NVP)."""

from __future__ import annotations

import functools

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.coupling import affine_coupling, alternating
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
