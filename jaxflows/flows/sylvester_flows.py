"""Sylvester flows."""

from __future__ import annotations

import math

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.sylvester import sylvester as sylvester_layer
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of

# columns or reflections of a layer when none are asked for, where the event is large enough
_DEFAULT_COUNT = 16


@factory
def sylvester(
    *,
    event_shape: Shape,
    blocks: int = 8,
    kind: str = "orthogonal",
    rank: int | None = None,
    reflections: int | None = None,
    margin: float = 1e-3,
) -> Flow:
    """One affine map for the whole event, then ``blocks`` Sylvester layers; those of kind 'triangular' alternate in order.

    Args:
        event_shape: any shape; layers see it flattened.
        blocks: number of Sylvester layers; even for the kind 'triangular', whose every second layer reverses the entries.
        kind, margin: as `jaxflows.bijectors.sylvester.sylvester`.
        rank: of the kind 'orthogonal'; the lesser of 16 and the event's size when None.
        reflections: of the kind 'householder'; the same when None.
    """
    default = min(_DEFAULT_COUNT, math.prod(event_shape))
    first = actnorm(over="event")
    if kind == "triangular":
        if blocks % 2:
            raise ValueError(f"expected an even number of blocks with kind 'triangular'; got {blocks}")
        both = [sylvester_layer(kind=kind, rank=rank, reflections=reflections, reverse=r, margin=margin) for r in (False, True)]
        return flow_of(event_shape, chain(first, scan_chain(chain(*both), blocks // 2)))
    if kind == "householder":
        reflections = default if reflections is None else reflections
    elif rank is None:
        rank = default
    body = sylvester_layer(kind=kind, rank=rank, reflections=reflections, margin=margin)
    return flow_of(event_shape, chain(first, scan_chain(body, blocks)))
