"""Draw from a mixture of Gauss-Newton posteriors, one an anchor: for posteriors of several modes.

One anchor sees the mode it lies in. Its solves may moreover lead to one branch of solutions only, and mass that no draw can
reach is missed without a sign. Here M anchors are searched for, the first from the middle of the latent and the others from
events of the flow itself with what was observed pasted in. With s_k the share of anchor k, q_k its posterior's density of
y_hidden, which is zero where the solve for y's own free latent does not lead back to y, and t_k a Student distribution
around the anchor in the data, which is positive everywhere and needs no solve,

    y ~ sum_k s_k (3/4 q_k + 1/4 t_k),     w = p(y) / sum_k s_k (3/4 q_k + 1/4 t_k)(y_hidden)

(the balance heuristic: Veach and Guibas 1995; t_k as a defence: Hesterberg 1995). So the weights' mean is p(y_observed)
whatever the solver can reach, and what only t_k reaches shows in the weights. Anchors found twice count once; shares are half
even and half the Laplace evidence of each. Without weights draws are of sum_k s_k q_k alone, with shares by evidence.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.conditional.diagnostics import WeightReport, unweighted, usable, weight_report
from jaxflows.conditional.elbo import draw, hidden_log_det
from jaxflows.conditional.gauss_newton import Reference, gauss_newton_reference, rough_completion
from jaxflows.conditional.hidden import Hidden, hidden
from jaxflows.conditional.pairs import in_pairs
from jaxflows.conditional.partition import framed
from jaxflows.conditional.posteriors import gauss_newton, hidden_normal_log_prob
from jaxflows.conditional.sample import Draws, solves_in_all, standard_normals
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.precision import full_precision
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.largest import largest
from jaxflows.solvers.robust import thorough_solver

# anchors nearer than this in the latent are one
SAME_ANCHOR = 0.1

# of every four draws one is from around the anchors in the data, of a Student distribution of this many degrees of freedom
WIDE_ONE_IN = 4
DEGREES = 4.0

# a solve that comes this near, relative to the event's size, has led back to the event
SAME_EVENT = 1e-2


@full_precision
def draw_mixture(
    key: jax.Array,
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    *,
    num_samples: int = 16,
    anchors: int = 4,
    solver: ConstraintSolver | None = None,
    max_hidden: int | None = None,
    weighted: bool = True,
    antithetic: bool = False,
) -> Draws:
    """Draw completions of ONE observation around several anchors and weigh them; a pure function.

    Args:
        key: random key, used once.
        flow: the flow, static.
        params: its parameters.
        observation: from `jaxflows.observe`.
        y_observed: (*event,); its hidden part is ignored and may be NaN.
        num_samples: S.
        anchors: M, places from which an anchor is searched for.
        solver: the constraint solver; when None `jaxflows.solvers.robust.thorough_solver`.
        max_hidden: static bound on the hidden coordinates; the event's size when None.
        weighted, antithetic: as in `jaxflows.conditional.sample.draw_samples`; the draws of a pair share their anchor.

    Returns:
        The draws; ``anchor`` is that of the largest share, ``overlap`` the least. The partition is the tangent at each
        anchor. Cost: M searches and M decodes, (3/4 + M) S constraint solves, S M times K JVPs and a K x K factorisation,
        and S exact densities; without weights M searches and decodes, and S solves.
    """
    where = hidden(observation, max_hidden)
    known = observation.observed_part(y_observed)
    solver = thorough_solver(flow, True) if solver is None else solver
    k_starts, k_share, k_draw = jax.random.split(key, 3)
    begins = _begins(k_starts, flow, params, where, known, anchors)
    references = jax.lax.map(
        lambda y: gauss_newton_reference(flow, params, where, known, "tangent", begin=y),
        begins,
    )
    log_share = _log_shares(flow, params, where, references, 0.5 if weighted else 0.0)
    best = jnp.argmax(log_share)

    def solved(eta: jax.Array, start: Reference) -> tuple[jax.Array, SolveInfo]:
        turned, turned_params = framed(flow, params, start.rotation)
        drawn = draw(
            eta, turned, turned_params, where, known, gauss_newton(), (), start, solver, lambda y: jnp.zeros((), y.dtype)
        )
        return observation.restore(drawn.solution.y, known), drawn.info

    def coordinates(y: jax.Array, start: Reference) -> jax.Array:
        """eta of an event."""
        turned, turned_params = framed(flow, params, start.rotation)
        x = turned.bijector.move_back(turned.encode(turned_params, y))
        return jnp.linalg.solve(start.scale, where.compress(x) - start.mean)

    def log_density(y: jax.Array, eta: jax.Array, start: Reference) -> jax.Array:
        """log q_k(y_hidden), where the solve leads back to y."""
        turned, turned_params = framed(flow, params, start.rotation)
        log_det = hidden_log_det(turned, turned_params, where, y)
        return hidden_normal_log_prob(where.used, eta) - start.log_det + log_det

    def drawn(events: jax.Array, log_weights: jax.Array, report: WeightReport, infos: SolveInfo, spent: jax.Array) -> Draws:
        solve = solves_in_all(infos, spent + jnp.sum(references.info.evaluations))
        overlap = jnp.min(references.overlap)
        still = jnp.full((), jnp.nan, events.dtype)
        return Draws(events, log_weights, references.anchor[best], references.partition[best], overlap, still, report, solve)

    wide = num_samples // WIDE_ONE_IN if weighted else 0
    if antithetic:
        # no pair is torn
        wide -= min(wide, (num_samples - wide) % 2)
    narrow = num_samples - wide
    k_narrow, k_wide = jax.random.split(k_share)
    eps = standard_normals(k_draw, num_samples, flow, where, y_observed.dtype, antithetic)
    chosen = _anchors_of(k_narrow, log_share, narrow, antithetic)
    events, infos = jax.vmap(solved)(eps[:narrow], jax.tree.map(lambda leaf: leaf[chosen], references))
    if not weighted:
        return drawn(events, *unweighted(infos.converged, eps.dtype), infos, jnp.zeros((), jnp.int32))
    k_anchor, k_tail = jax.random.split(k_wide)
    around = _anchors_of(k_anchor, log_share, wide, antithetic)
    stretch = jnp.sqrt(0.5 * DEGREES / jax.random.gamma(k_tail, 0.5 * DEGREES, (wide,), y_observed.dtype))
    stretch = in_pairs(stretch) if antithetic else stretch

    def spread_out(eta: jax.Array, anchor: jax.Array, spread: jax.Array) -> jax.Array:
        return observation.restore(anchor + where.expand(spread @ eta), known)

    far = jax.vmap(spread_out)(stretch[:, None] * eps[narrow:], references.anchor[around], references.spread[around])
    events = jnp.concatenate([events, far])
    converged = jnp.concatenate([infos.converged, jnp.ones(wide, bool)])
    chosen = jnp.concatenate([chosen, jnp.full(wide, -1)])
    log_parts = jnp.log(jnp.asarray([narrow, wide], y_observed.dtype) / num_samples)
    # whether every anchor's own solve would have found the event
    etas = jax.vmap(lambda y: jax.vmap(lambda start: coordinates(y, start))(references))(events)
    again, others = jax.vmap(lambda eta: jax.vmap(solved)(eta, references))(etas)
    near = jax.vmap(lambda y, found: jax.vmap(lambda t: largest(t - y) <= SAME_EVENT * (1.0 + largest(y)))(found))(
        events, again
    )
    leads_back = (near & others.converged) | (chosen[:, None] == jnp.arange(anchors))

    def log_weight(arguments: Any) -> jax.Array:
        y, eta, reached = arguments
        densities = jax.lax.map(lambda pair: log_density(y, *pair), (eta, references))
        tails = jax.lax.map(lambda start: _log_student(where, y, start), references)
        terms = jnp.stack([jnp.where(reached, log_parts[0] + densities, -jnp.inf), log_parts[1] + tails])
        return flow.log_prob(params, y) - jax.scipy.special.logsumexp(log_share + terms)

    log_weights = usable(jax.lax.map(log_weight, (events, etas, leads_back)), converged)
    return drawn(
        events, log_weights, weight_report(log_weights), infos._replace(converged=converged), jnp.sum(others.evaluations)
    )


def _begins(key: jax.Array, flow: Flow, params: Params, where: Hidden, known: jax.Array, anchors: int) -> jax.Array:
    """Where the searches begin, (M, *event)."""
    middle, _ = rough_completion(flow, params, where, known)
    x = jax.random.normal(key, (anchors - 1, *flow.latent_shape), known.dtype)
    others = jax.vmap(lambda t: where.observation.restore(flow.decode(params, t)[0], known))(x)
    return jnp.concatenate([middle[None], jnp.where(jnp.isfinite(others), others, middle)])


def _anchors_of(key: jax.Array, log_share: jax.Array, count: int, antithetic: bool) -> jax.Array:
    """Positions of anchors, (count,): systematic, so that every anchor has its share of them, to one draw or pair."""
    places = jnp.arange(count) // 2 if antithetic else jnp.arange(count)
    ticks = (places + jax.random.uniform(key)) / max(1, -(-count // 2) if antithetic else count)
    return jnp.clip(jnp.searchsorted(jnp.cumsum(jnp.exp(log_share)), ticks), 0, log_share.size - 1)


def _log_student(where: Hidden, y: jax.Array, start: Reference) -> jax.Array:
    """log t_k(y_hidden): a multivariate Student distribution around the anchor, of scale ``spread``."""
    eta = jnp.linalg.solve(start.spread, where.compress(y - start.anchor))
    count = jnp.sum(where.used).astype(y.dtype)
    half = 0.5 * (DEGREES + count)
    constant = gammaln(half) - gammaln(0.5 * DEGREES) - 0.5 * count * math.log(DEGREES * math.pi)
    return constant - half * jnp.log1p(jnp.sum(eta**2) / DEGREES) - jnp.linalg.slogdet(start.spread)[1]


def _log_shares(flow: Flow, params: Params, where: Hidden, references: Reference, even: float) -> jax.Array:
    """Logarithms of the shares, (M,): minus infinity for an anchor that an earlier one has already found.

    Args:
        even: what part of them is the same for all, the rest going by evidence.
    """
    latents = jax.vmap(lambda y: flow.encode(params, y).reshape(-1))(references.anchor)
    distances = jnp.linalg.norm(latents[:, None] - latents[None], axis=-1)
    earlier = jnp.tril(jnp.ones_like(distances, bool), -1)
    count = jnp.sum(where.used)
    volumes = jax.lax.map(lambda spread: jnp.linalg.slogdet(spread)[1], references.spread)
    evidence = jax.lax.map(lambda y: flow.log_prob(params, y), references.anchor)
    evidence = evidence + volumes + 0.5 * count * math.log(2 * math.pi)
    distinct = ~jnp.any(earlier & (distances < SAME_ANCHOR), axis=1) & jnp.isfinite(evidence)
    by_evidence = jax.nn.softmax(jnp.where(distinct, evidence, -jnp.inf))
    return jnp.log((1.0 - even) * by_evidence + even * distinct / jnp.sum(distinct))
