"""The equation every constraint solver solves, and the one signature and one result they share.

Find (y, x) with x = g(y), P_O y = y_observed, P_H x = x_hidden (IVCNF Eq. 4, for any projector; docs/design.md, section 3).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo, carried
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.precision import full_precision
from jaxflows.solvers.largest import largest


class Stack(NamedTuple):
    """The points of a flow's layers, the unknowns of the boundary sweep: z_0, everything between, z_L."""

    first: jax.Array
    path: Any
    last: jax.Array


class Solution(NamedTuple):
    """A solved constraint.

    Attributes:
        y: the completed event, P_O y = y_observed.
        x: its latent g(y).
        stack: the points of all layers; give it back as ``start`` to solve a nearby problem faster.
    """

    y: jax.Array
    x: jax.Array
    stack: Stack


class ConstraintSolver(Protocol):
    """``(flow, params, observation, y_observed, x_hidden, start, inverse) -> (Solution, SolveInfo)`` on one example.

    ``start`` is the stack of a nearby solution and ``inverse`` an approximate inverse of the hidden block G^HH near it, from
    a hidden event to a hidden event; either may be None. ``info.residual`` is max |P_H(g(y) - x_hidden)| with y the event
    returned, always evaluated there at the end.
    """

    def __call__(
        self,
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
        inverse: Partial | None = None,
    ) -> tuple[Solution, SolveInfo]:
        """Solve one constraint."""
        ...


def default_tolerance(dtype: Any) -> float:
    """Residual asked of a constraint solve when none is given: 1e-4 in float32, 1e-10 in float64."""
    return 1e-4 if jnp.finfo(dtype).bits <= 32 else 1e-10


@full_precision
def trace(flow: Flow, params: Params, y: jax.Array) -> Stack:
    """The stack of an event: every layer applied in turn. Cost: one pass."""
    last, path = flow.bijector.trace(params, y)
    return Stack(y, path, last)


@full_precision
def constraint_residual(flow: Flow, observation: Observation, x: jax.Array, x_hidden: jax.Array) -> jax.Array:
    """max |P_H(x - x_hidden)| on the latent side of the flow."""
    return largest(carried(flow.bijector, observation).hidden_part(x - x_hidden))
