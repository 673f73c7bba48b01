"""How a batch of rows is drawn: what the caller said, and what suits the flow where nothing was said."""

from __future__ import annotations

from typing import NamedTuple

from jaxflows.conditional.posteriors import Posterior, gauss_newton
from jaxflows.conditional.sample import check_moves
from jaxflows.flows import Flow

# entries of an event up to which draws are weighed by default where the flow is explicit both ways
MOST_WEIGHED = 512

# trajectories a draw by default where it is not weighed (docs/design.md, section 6)
MOVES = 48


class DrawingPlan(NamedTuple):
    """The options of `jaxflows.complete` that depend on the flow and on the others, resolved.

    Attributes:
        weighted, moves: as there.
        note: what was decided without being asked, in a full sentence; None where nothing was.
    """

    weighted: bool
    moves: int
    note: str | None


def drawing_plan(
    flow: Flow, family: Posterior, partition: str, weighted: bool | None, moves: int | None, antithetic: bool, anchors: int,
    num_samples: int = 16, chains: int | None = None,
) -> DrawingPlan:  # fmt: skip
    """Resolve what was left open.

    Draws are weighed and not moved, except those of a flow that is explicit both ways with events of more than `MOST_WEIGHED`
    entries. There weights cost more than all the rest and tell nothing, the effective sample size being 1, and couplings leave
    draws without a completion. Unweighted moves are of events of the flow itself (`jaxflows.conditional.moved_events`), which
    need no posterior, anchor or partition: whoever chose one is given no moves by default.

    Args:
        flow: the flow.
        family: the posterior.
        partition: as the caller said, 'auto' for nothing.
        weighted, moves: likewise, None for nothing.
        antithetic, anchors: as the caller said; with several anchors, with a partition or with another posterior than
            Gauss-Newton's nothing is moved by default.
        num_samples, chains: as the caller said, None for a chain a draw.

    Raises:
        ValueError: anchors below 1, several with a posterior or a partition, which are then not free, and moves that cannot be.
    """
    if anchors < 1:
        raise ValueError(f"expected anchors >= 1; got {anchors}")
    if anchors > 1 and (family != gauss_newton() or partition not in ("auto", "tangent")):
        raise ValueError("expected no posterior and no partition but the tangent with several anchors: they are Gauss-Newton's")
    anchored = family.start == "gauss_newton"
    large = flow.bijector.explicit and flow.size > MOST_WEIGHED
    # of a posterior nothing was asked
    free = family == gauss_newton() and partition == "auto"
    if moves is None:
        taken = MOVES if large and not weighted and free and anchors == 1 else 0
    else:
        taken = moves
    weighed = not (large and taken and free) if weighted is None else weighted
    check_moves(taken, antithetic and weighed, anchored)
    if taken and anchors > 1:
        raise ValueError(f"expected a single anchor with moves; got {anchors}")
    if taken and not weighed and not free:
        asked = family.name if partition == "auto" else f"partition {partition!r}"
        raise ValueError(
            f"expected weights with moves of {asked}'s draws: without them nothing is drawn from a posterior; got both"
        )
    if chains is not None and (weighed or not taken):
        raise ValueError(f"expected weighted=False and moves= with chains=; got weighted={weighed}, moves={taken}")
    if chains is not None:
        check_chains(chains, num_samples, taken, antithetic)
    note = None
    if moves is None and taken:
        done = f"moved {taken} times" + (" and not weighed" if weighted is None else "")
        note = f"draws were {done}: the flow is explicit both ways, its events have {flow.size} entries"
    return DrawingPlan(weighed, taken, note)


def check_chains(chains: int, num_samples: int, moves: int, antithetic: bool) -> None:
    """Raise ValueError where so many chains cannot give so many draws, all of the second half of their moves."""
    if not 1 <= chains <= num_samples:
        raise ValueError(f"expected chains from 1 to as many as draws, {num_samples}; got {chains}")
    if antithetic and chains % 2 and chains < num_samples:
        raise ValueError(f"expected an even number of chains, in antithetic pairs; got {chains}")
    each, most = -(-num_samples // chains), moves - moves // 2
    if each > max(1, most):
        raise ValueError(
            f"expected at most {most} draws of a chain of {moves} moves, one a move of the second half; got {each}"
        )
