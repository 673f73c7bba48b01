"""The Gauss-Newton posterior: a full-covariance q(x_hidden) without stochastic optimisation (docs/design.md, section 6).

1. Anchor: the completion of least energy, that is latent norm, with a share of the volume where that is cheap, by Gauss-Newton
   steps (`jaxflows.conditional.anchor_search`).
2. At y*, with A = G[:, H] the hidden columns of the Jacobian and N = A^T A = C C^T, the linearised target
   p0(x_hidden) p0(x_observed) in x_hidden is the Gaussian with

       mean P_H g(y*),  precision I + B^T B = (G^HH)^{-T} N (G^HH)^{-1},  B = dx_observed/dx_hidden,

   so that x_hidden = P_H g(y*) + G^HH C^{-T} eps samples it, and y* + C^{-T} eps already predicts the completed event.

With another partition of the latent the free latent is T x in place of P_H x (`jaxflows.conditional.partition`), and T A
stands for G^HH. The columns of Q = A C^{-T} are orthonormal, and scale = T Q.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, SolveInfo, no_work
from jaxflows.conditional.anchor_search import SMALL_DECREASE, energy, find_anchor, normal_factor
from jaxflows.conditional.hidden import Hidden, hidden_columns
from jaxflows.conditional.partition import PILOT_PAIRS, average_split, in_event_coordinates, split_latent
from jaxflows.flows import Flow
from jaxflows.solvers.boundary_sweep import hold_ends, sweep
from jaxflows.solvers.equation import trace

# steps and linearisations of the search for the anchor
MOST_STEPS = 60

# plain sweeps from which the search for the anchor starts
ROUGH_SWEEPS = 8


class Reference(NamedTuple):
    """The coordinates eta in which a posterior is written: x_free = mean + scale eta, all in hidden slots.

    Attributes:
        mean: (K,).
        scale: (K, K).
        log_det: log|det scale|.
        anchor: (*event,), the completed event at eta = 0.
        spread: (K, K): anchor + spread eta predicts the hidden part of the event, to first order.
        inverse: (K, K), the inverse of dx_free/dy_hidden at the anchor; the identity where nothing was linearised.
        rotation: (d, d), the rotation of the latent that makes x_free its hidden part; None for the same coordinates.
        overlap: smallest cosine between the free latent and the tangent space at the anchor; NaN where not measured.
        partition: position in `jaxflows.conditional.partition.PARTITIONS`.
        info: of the solves that led to the anchor.
    """

    mean: jax.Array
    scale: jax.Array
    log_det: jax.Array
    anchor: jax.Array
    spread: jax.Array
    inverse: jax.Array
    rotation: jax.Array | None
    overlap: jax.Array
    partition: jax.Array
    info: SolveInfo


def rough_completion(flow: Flow, params: Params, where: Hidden, y_observed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An event near the solution for x_hidden = 0, by a few plain sweeps, and the block evaluations spent.

    A place to start from needs neither acceleration nor a test, which would be compiled a second time beside the solver's.
    Sweeps may lead astray where the layers are far from the identity: a flow with an explicit inverse takes
    `_linear_completion`, and where that overflows the better of the sweeps' and f(0) with what was observed put in.
    """
    observation = where.observation
    zero = jnp.zeros(flow.latent_shape, y_observed.dtype)
    stack = hold_ends(flow, observation, y_observed, zero, trace(flow, params, y_observed))
    stack = jax.lax.fori_loop(0, ROUGH_SWEEPS, lambda _, s: sweep(flow, params, observation, s), stack)
    bijector = flow.bijector
    y = jnp.where(jnp.isfinite(stack.first), stack.first, y_observed)
    spent = bijector.blocks + ROUGH_SWEEPS * bijector.sweep_blocks
    if bijector.explicit:
        middle = flow.decode(params, zero)[0]
        linear = _linear_completion(flow, params, where, middle, y_observed)
        candidates = jnp.stack([linear, observation.restore(middle, y_observed), y])
        energies = jax.vmap(functools.partial(energy, flow, params, where))(candidates)
        energies = jnp.where(jnp.isfinite(energies), energies, jnp.inf)
        y = candidates[jnp.where(jnp.isfinite(energies[0]), 0, jnp.argmin(energies))]
        # a decode, the energies, the columns and a product
        spent += (4 + where.slots.size + 3) * bijector.blocks
    return y, jnp.asarray(spent, jnp.int32)


def _linear_completion(flow: Flow, params: Params, where: Hidden, middle: jax.Array, y_observed: jax.Array) -> jax.Array:
    """The completion of least latent norm of the flow linearised at its middle f(0): the Gaussian conditional's mean.

    What was observed, put into f(0), may be an event such as the flow never makes (grey levels as a green image), from where
    couplings lead the search to a mode of little mass; this one is where a Gaussian of the flow's own moments would be. Cost: a
    linearisation of K JVPs.
    """

    def encode(t: jax.Array) -> jax.Array:
        return flow.bijector.move_back(flow.encode(params, t))

    with jax.default_matmul_precision("highest"):
        _, columns = hidden_columns(flow, params, where, middle)
        seen = where.observation.observed_part(y_observed - middle)
        image = where.observation.to_coordinates(jax.jvp(encode, (middle,), (seen,))[1]).reshape(-1)
        step = jax.scipy.linalg.cho_solve((normal_factor(where, columns), True), columns.T @ image)
    return where.observation.restore(middle - where.expand(step), y_observed)


def prior_reference(flow: Flow, params: Params, where: Hidden, y_observed: jax.Array, partition: str = "same") -> Reference:
    """eta = x_free, so that q starts at the prior N(0, I).

    With the same coordinates the anchor is near the solution for x_hidden = 0; another partition needs the anchor of
    `gauss_newton_reference`, from which the solution for x_free = 0 is predicted.
    """
    size, dtype = where.slots.size, y_observed.dtype
    identity, zeros = jnp.eye(size, dtype=dtype), jnp.zeros(size, dtype)
    if partition == "same":
        anchor, evaluations = rough_completion(flow, params, where, y_observed)
        info = no_work(evaluations=evaluations)
        nan, same = jnp.full((), jnp.nan, dtype), jnp.zeros((), jnp.int32)
        return Reference(zeros, identity, zeros.sum(), anchor, 0.0 * identity, identity, None, nan, same, info)
    start = gauss_newton_reference(flow, params, where, y_observed, partition)
    anchor = start.anchor - where.expand(start.inverse @ start.mean)
    return start._replace(mean=zeros, scale=identity, log_det=zeros.sum(), anchor=anchor, spread=start.inverse)


def gauss_newton_reference(
    flow: Flow,
    params: Params,
    where: Hidden,
    y_observed: jax.Array,
    partition: str = "same",
    max_steps: int = MOST_STEPS,
    begin: jax.Array | None = None,
) -> Reference:
    """The reference in which the Gauss-Newton posterior is eta ~ N(0, I).

    Args:
        flow, params: the flow.
        where: the hidden subspace, K slots.
        y_observed: (*event,), its hidden part zero.
        partition: of the latent, 'same', 'volume', 'tangent', 'average' or 'auto' (`jaxflows.conditional.partition`).
        max_steps: Gauss-Newton steps and linearisations at most.
        begin: (*event,), the completion from which the anchor is searched for; `rough_completion` when None.

    Returns:
        The reference. ``info`` says whether the anchor was found: ``residual`` is the predicted decrease of the energy
        still to be had. Cost: `jaxflows.conditional.anchor_search.find_anchor`, most often two linearisations of K JVPs of
        ``encode`` and O(d K^2) arithmetic each.
    """
    if begin is None:
        begin, evaluations = rough_completion(flow, params, where, y_observed)
    else:
        evaluations = jnp.zeros((), jnp.int32)
    end = find_anchor(flow, params, where, begin, max_steps)
    evaluations = evaluations + end.evaluations
    with jax.default_matmul_precision("highest"):
        identity = jnp.eye(where.slots.size, dtype=y_observed.dtype)
        spread = jax.scipy.linalg.solve_triangular(end.factor.T, identity, lower=False)
        # the last step, to first order: nothing is linearised again for a step that moves no sample
        half = jnp.where(end.decrease <= SMALL_DECREASE, end.half, 0.0)
        y = end.y - where.expand(spread @ half)
        tangent = end.columns @ spread
        if partition == "average":
            split = average_split(flow, params, where, y, spread, tangent)
            evaluations += 2 * PILOT_PAIRS * flow.bijector.blocks * (where.slots.size + 1)
        else:
            split = split_latent(partition, where, tangent)
        x = end.x if split.rotation is None else split.rotation @ end.x
        mean = jnp.where(where.used, x[where.slots] - split.scale @ half, 0.0)
        log_det = jnp.linalg.slogdet(split.scale)[1]
        rotation = None if split.rotation is None else in_event_coordinates(where, split.rotation)
    left = jnp.where(jnp.isfinite(end.decrease), end.decrease, jnp.inf)
    report = SolveInfo(left, end.steps, left < 1.0, evaluations)
    return Reference(
        mean, split.scale, log_det, y, spread, spread @ split.inverse_scale, rotation, split.overlap, split.partition, report
    )
