"""Continuous flows: one ordinary differential equation from data to latent."""

from __future__ import annotations

from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.base import Shape
from jaxflows.bijectors.chain import chain
from jaxflows.bijectors.continuous import continuous as continuous_layer
from jaxflows.factory import factory
from jaxflows.flows.flow import Flow, flow_of


@factory
def continuous(
    *,
    event_shape: Shape,
    hidden: int | tuple[int, ...] = (64, 64),
    legs: int = 8,
    steps: int = 2,
    solver: str = "bosh3",
    activation: str = "tanh",
    probes: int = 1,
    probe: str = "rademacher",
) -> Flow:
    """A free-form continuous flow: one affine map for the whole event, then an ordinary differential equation in legs.

    The affine map shares one shift and one scale over the event, so that linear measurements stay linear (docs/design.md).

    Args:
        event_shape: any shape; the network sees it flattened.
        hidden: hidden width, or widths, of the network.
        legs, steps, solver, activation, probes, probe: as `jaxflows.bijectors.continuous.continuous`.
    """
    widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    body = continuous_layer(
        hidden=widths, legs=legs, steps=steps, solver=solver, activation=activation, probes=probes, probe=probe
    )
    return flow_of(event_shape, chain(actnorm(over="event"), body))
