"""Neural spline flows: rational-quadratic couplings (Durkan et al. 2019)."""

from __future__ import annotations

import functools

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.coupling import alternating
from jaxflows.bijectors.spline import spline_coupling
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def neural_spline(
    *,
    event_shape: Shape,
    layers: int = 6,
    hidden: int = 128,
    blocks: int = 2,
    split: str = "checkerboard",
    bins: int = 8,
    bound: float = 4.0,
) -> Flow:
    """One affine map for the whole event, then ``layers`` spline couplings of alternating parity on the flat event.

    The first map shares one shift and one scale over the event, so that linear measurements stay linear (docs/design.md).
    Both directions are explicit, as `jaxflows.flows.realnvp`; each coupling bends more, and costs more, than an affine one.

    Args:
        event_shape: any shape of at least two entries; couplings see it flattened.
        layers: number of couplings, even.
        hidden, blocks: width and residual blocks of each coupling's network.
        split: 'checkerboard' or 'half'.
        bins: bins of each spline.
        bound: half the interval the splines bend, in standard deviations of the event's entries; the identity outside.
    """
    make = functools.partial(spline_coupling, hidden=hidden, blocks=blocks, split=split, bins=bins, bound=bound)
    return flow_of(event_shape, chain(actnorm(over="event"), alternating(make, layers)))
