"""NICE: additive coupling flows (Dinh et al. 2015, Non-linear Independent Components Estimation)."""

from __future__ import annotations

import functools

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.coupling import additive_coupling, alternating
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def nice(*, event_shape: Shape, layers: int = 8, hidden: int = 128, blocks: int = 2, split: str = "checkerboard") -> Flow:
    """One affine map for the whole event, ``layers`` additive couplings of alternating parity, one scale an entry.

    The couplings keep volumes, so that the last layer, an ActNorm an entry as the paper's diagonal S, holds all of the
    log-determinant: it is the same at every event.

    Args:
        event_shape: any shape of at least two entries; couplings see it flattened.
        layers: number of couplings, even.
        hidden, blocks: width and residual blocks of each coupling's network.
        split: 'checkerboard' or 'half'.
    """
    make = functools.partial(additive_coupling, hidden=hidden, blocks=blocks, split=split)
    return flow_of(event_shape, chain(actnorm(over="event"), alternating(make, layers), actnorm(over="element")))
