"""Radial flows."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.radial import radial as radial_layer
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def radial(*, event_shape: Shape, blocks: int = 16, margin: float = 1e-3) -> Flow:
    """One affine map for the whole event, then ``blocks`` radial layers, each able to gather or spread mass around a point.

    Args:
        event_shape: any shape.
        blocks: number of radial layers.
        margin: as `jaxflows.bijectors.radial.radial`.
    """
    return flow_of(event_shape, chain(actnorm(over="event"), scan_chain(radial_layer(margin=margin), blocks)))
