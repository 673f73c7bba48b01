"""Draw from a posterior and weigh the draws, for one observation: the pure core of `jaxflows.complete`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.conditional.diagnostics import WeightReport, unweighted, usable, weight_report
from jaxflows.conditional.elbo import draw, log_det_gap
from jaxflows.conditional.fit_posterior import Fitted
from jaxflows.conditional.hidden import Hidden, hidden
from jaxflows.conditional.moves import move
from jaxflows.conditional.pairs import in_pairs, pair_signs
from jaxflows.conditional.partition import check_partition, framed
from jaxflows.conditional.posteriors import Posterior, gauss_newton, is_anchored, reference
from jaxflows.conditional.spreads import hidden_spread
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.precision import full_precision
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.robust import thorough_solver


class Draws(NamedTuple):
    """Weighted draws for one observation.

    Attributes:
        samples: (S, *event), drawn from q; the observed part is exactly what was given.
        log_weights: (S,), log p(y) - log q(y_hidden), or 0 where weights were not asked for; minus infinity where the
            constraint was not solved.
        anchor: (*event,), the reference's own completion (of least energy for Gauss-Newton); `draw_moved` has another.
        partition: which part of the latent was free, a position in `jaxflows.conditional.partition.PARTITIONS`.
        overlap: smallest cosine between it and the tangent space at the anchor; NaN where none was measured.
        acceptance: mean chance of the moves after the draw to be accepted; NaN where there were none.
        report: the diagnostics of the weights.
        solve: the solver's report: worst residual, most steps, share converged, evaluations in all, the reference's too.
    """

    samples: jax.Array
    log_weights: jax.Array
    anchor: jax.Array
    partition: jax.Array
    overlap: jax.Array
    acceptance: jax.Array
    report: WeightReport
    solve: SolveInfo


@full_precision
def draw_samples(
    key: jax.Array,
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    *,
    num_samples: int = 16,
    posterior: Posterior | None = None,
    fitted: Fitted | None = None,
    solver: ConstraintSolver | None = None,
    partition: str = "same",
    max_hidden: int | None = None,
    weighted: bool = True,
    antithetic: bool = False,
    moves: int = 0,
) -> Draws:
    """Draw completions of ONE observation and weigh them; a pure function, to be used under ``jit`` and ``vmap``.

    Args:
        key: random key, used once.
        flow: the flow, static.
        params: its parameters.
        observation: from `jaxflows.observe`.
        y_observed: (*event,); its hidden part is ignored and may be NaN.
        num_samples: S.
        posterior: the family; Gauss-Newton when None.
        fitted: what `fit_posterior` returned for this observation; the family's start when None.
        solver: the constraint solver; when None `jaxflows.solvers.robust.thorough_solver`.
        partition: which part of the latent is free: 'same', 'volume', 'tangent', 'average' or 'auto'
            (`jaxflows.conditional.partition`); that of ``fitted`` where it is given. 'auto' chooses when the program runs,
            which compiles and computes what any choice may need.
        max_hidden: static bound on the hidden coordinates; when None that of ``fitted``, or the event's size.
        weighted: whether draws are weighed. If not, solved draws count alike and ``report`` is NaN.
        antithetic: draw in pairs eta and -eta (`standard_normals`).
        moves: trajectories by which every draw is then moved (`jaxflows.conditional.moves`), an unsolved one from the anchor.
            Weights stay those of the draws before. Moves without weights are `jaxflows.conditional.moved_events.draw_moved`'s.

    Returns:
        The draws. Cost: the reference's (two linearisations of K JVPs, or more), S constraint solves, and for every draw's
        weight K JVPs, the flow's exact log-determinant and one K x K factorisation.

    Raises:
        ValueError: an unknown partition; moves of antithetic draws, with a reference that linearised nothing, or without
            weights (`jaxflows.conditional.moved_events.draw_moved` is for those).
    """
    posterior = gauss_newton() if posterior is None else posterior
    check_partition(partition)
    if moves and not weighted:
        raise ValueError("expected weights with moves of a posterior's draws; got moves alone, which are `draw_moved`'s")
    if fitted is not None and max_hidden is None:
        max_hidden = fitted.start.mean.size
    where = hidden(observation, max_hidden)
    known = observation.observed_part(y_observed)
    k_init, k_draw = jax.random.split(key)
    if fitted is None:
        start = reference(posterior, flow, params, where, known, partition)
        theta: Any = posterior.init(k_init, where.slots.size)
    else:
        theta, start = fitted
    check_moves(moves, antithetic, is_anchored(posterior, start))
    if solver is None:
        solver = thorough_solver(flow, is_anchored(posterior, start))
    unturned = (flow, params)
    flow, params = framed(flow, params, start.rotation)
    eps = standard_normals(k_draw, num_samples, flow, where, y_observed.dtype, antithetic)

    def one(eps: jax.Array) -> Any:
        # the exact log-determinants are left to a loop of their own: they are matrices where the solves are vectors
        drawn = draw(eps, flow, params, where, known, posterior, theta, start, solver, lambda y: jnp.zeros((), y.dtype))
        return drawn.solution.y, drawn.log_weight, drawn.info

    samples, log_weights, infos = jax.vmap(one)(eps)
    spent, acceptance = start.info.evaluations, jnp.full((), jnp.nan, samples.dtype)
    if weighted:
        gaps = jax.lax.map(lambda y: log_det_gap(flow, params, where, y), samples)
        log_weights = usable(log_weights + gaps, infos.converged)
        report = weight_report(log_weights)
    else:
        log_weights, report = unweighted(infos.converged, log_weights.dtype)
    if moves:
        begin = jnp.where(infos.converged.reshape(-1, *(1 for _ in y_observed.shape)), samples, start.anchor)
        moved = move(jax.random.fold_in(key, 1), *unturned, observation, hidden_spread(where, start.spread), begin, moves)
        samples, acceptance, spent = moved.samples, moved.acceptance, spent + moved.evaluations
    samples = jax.vmap(lambda y: observation.restore(y, known))(samples)
    solve = solves_in_all(infos, spent)
    return Draws(samples, log_weights, start.anchor, start.partition, start.overlap, acceptance, report, solve)


def check_moves(moves: int, antithetic: bool, anchored: bool) -> None:
    """Raise ValueError for moves that cannot be."""
    if moves < 0:
        raise ValueError(f"expected moves >= 0; got {moves}")
    if moves and antithetic:
        raise ValueError("expected no moves of antithetic draws with weights, which they would part; got both")
    if moves and not anchored:
        raise ValueError("expected a posterior that starts at Gauss-Newton's with moves, which take their mass from there")


def standard_normals(key: jax.Array, count: int, flow: Flow, where: Hidden, dtype: jnp.dtype, antithetic: bool) -> jax.Array:
    """eta of ``count`` draws, (count, K), each N(0, I).

    Antithetic ones are eta_1, -eta_1, eta_2, -eta_2, ...: where events are linear in eta all of it cancels in means over them
    (`jaxflows.conditional.pairs`).
    """
    # drawn at full size, so that the number of slots changes no sample
    eps = jax.random.normal(key, (count, flow.size), dtype)[:, : where.slots.size]
    return in_pairs(eps) * pair_signs(count, dtype)[:, None] if antithetic else eps


def solves_in_all(infos: SolveInfo, others: jax.Array) -> SolveInfo:
    """`Draws.solve` from the reports of all draws, every leaf (S,), and the evaluations spent on anything else."""
    share = jnp.mean(infos.converged.astype(infos.residual.dtype))
    return SolveInfo(jnp.max(infos.residual), jnp.max(infos.steps), share, jnp.sum(infos.evaluations) + others)
