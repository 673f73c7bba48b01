"""Planar flows."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.planar import planar as planar_layer
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def planar(*, event_shape: Shape, blocks: int = 16, margin: float = 1e-3) -> Flow:
    """One affine map for the whole event, then ``blocks`` planar layers, each able to bend the density along one direction.

    Args:
        event_shape: any shape; layers see it flattened.
        blocks: number of planar layers.
        margin: as `jaxflows.bijectors.planar.planar`.
    """
    return flow_of(event_shape, chain(actnorm(over="event"), scan_chain(planar_layer(margin=margin), blocks)))
