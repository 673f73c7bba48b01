"""Completions that are not weighed: events of the flow itself, made completions by its second moments, and moved.

Where a flow bends much, its linearisation anywhere is a poor guide to a conditional of hundreds of entries: the mode is
smoother than any draw, and events made completions by the Jacobian there can be a hundred thousand nats away. The second
moments of the flow's own events, mu and C = P^{-1}, are of no one place. With y' = f(x'), x' ~ N(0, I),

    y = P_O y* + P_H [y' - S S^T P P_O (y* - y')],   S S^T = (P_HH)^{-1},

is what was hidden of y' and what a Gaussian of these moments makes of the difference in what was observed: Matheron's rule.
Such completions have the moments of that Gaussian's conditional, and of the flow's events much that a Gaussian lacks. S is the
scale of the moves that follow (`jaxflows.conditional.moves`), which are exact whatever they begin at. Nothing is searched for,
linearised or solved.

Source: Journel and Huijbregts 1978; Hoffman and Ribak 1991. With moments of draws it is the analysis step of an ensemble Kalman
filter (Evensen 1994).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params, no_work
from jaxflows.conditional.call_record import digest_of
from jaxflows.conditional.diagnostics import unweighted
from jaxflows.conditional.drawing_plan import check_chains
from jaxflows.conditional.moves import move
from jaxflows.conditional.pairs import paired_keys
from jaxflows.conditional.partition import PARTITIONS
from jaxflows.conditional.sample import Draws
from jaxflows.conditional.spreads import Moments, Spread, conditional_spread, gaussian_completion, moments_of
from jaxflows.flows import Flow
from jaxflows.flows.entrywise import behind_entrywise
from jaxflows.observation import Observation, is_mask
from jaxflows.precision import full_precision

# events that the moments are taken of: so many an entry, and no fewer than so many
EVENTS_AN_ENTRY, FEWEST_EVENTS = 2, 1000
# of them decoded at a time
_AT_ONCE = 256
# one farther from the middle than so many times the median is left out: couplings make some that would be all of a covariance
FARTHEST = 6.0
# events whose entrywise median the middle is
_MIDDLE_OF = 64

# times the mean variance of an entry, added to every variance: moments of draws say of no direction that it does not vary
RIDGE = 1e-3


def moved_flow(flow: Flow, params: Params, observation: Observation) -> tuple[Flow, Params]:
    """The flow whose events are moved, and its parameters: where entries are observed, what is behind a map of each of them."""
    behind = behind_entrywise(flow)
    if behind is None or not is_mask(observation):
        return flow, params
    return behind.flow, behind.parts(params)[1]


@functools.partial(jax.jit, static_argnums=0)
@full_precision
def event_moments(flow: Flow, params: Params) -> Moments:
    """The moments of ``EVENTS_AN_ENTRY`` d events, the same for the same flow, without those that are not finite or far away.

    NaN where none is finite. Cost: as many decodes, O(d^3) arithmetic, and memory for (2 d, d) and (d, d) numbers.
    """
    count = max(FEWEST_EVENTS, EVENTS_AN_ENTRY * flow.size)

    def event(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, info = flow.decode(params, jax.random.normal(key, flow.latent_shape))
        return y.reshape(-1), info.evaluations

    events, spent = jax.lax.map(event, jax.random.split(jax.random.key(0), count), batch_size=_AT_ONCE)
    events = jnp.where(jnp.all(jnp.isfinite(events), axis=1, keepdims=True), events, jnp.nan)
    distances = jnp.linalg.norm(events - jnp.nanmedian(events[:_MIDDLE_OF], axis=0), axis=1, keepdims=True)
    near = distances <= FARTHEST * jnp.nanmedian(distances)
    number = jnp.sum(near)
    mean = jnp.sum(jnp.where(near, events, 0.0), axis=0) / number
    apart = jnp.where(near, events - mean, 0.0)
    covariance = apart.T @ apart / number
    covariance += RIDGE * jnp.trace(covariance) / flow.size * jnp.eye(flow.size, dtype=covariance.dtype)
    return moments_of(mean.reshape(flow.event_shape), covariance, jnp.sum(spent))


def kept_moments(flow: Flow, params: Params) -> Moments:
    """`event_moments` on the host, those of the last flow being kept from call to call.

    Raises:
        ValueError: a flow without finite events.
    """
    return _last_moments(flow, _Digested(digest_of(params), params))


@dataclasses.dataclass(frozen=True)
class _Digested:
    """Parameters, alike where their digests are."""

    digest: str
    params: Params = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=1)
def _last_moments(flow: Flow, digested: _Digested) -> Moments:
    found: Moments = jax.device_get(event_moments(flow, digested.params))
    if not np.all(np.isfinite(found.precision)):
        raise ValueError("expected a flow of finite events to be moved; got one whose own draws have no finite second moments")
    return found


def conditioned_events(
    key: jax.Array, flow: Flow, params: Params, observation: Observation, moments: Moments, spread: Spread, known: jax.Array,
    count: int, antithetic: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Events of the flow made completions of ONE observation; draws of the conditional where the flow is affine, nearly.

    Args:
        key: random key, used once.
        flow, params: the flow.
        observation: what was seen.
        moments, spread: of the flow, and what `jaxflows.conditional.spreads.conditional_spread` makes of them.
        known: P_O y*.
        count: how many.
        antithetic: of latents in pairs, x' and -x'.

    Returns:
        The completions (count, *event), the mean of the Gaussian's conditional (*event,), which stands for those that have no
        density, and block evaluations spent. Cost: a decode and a log p each.
    """
    middle = gaussian_completion(moments, observation, spread, known, moments.mean)

    def one(key: jax.Array, sign: jax.Array) -> tuple[jax.Array, jax.Array]:
        event, info = flow.decode(params, sign * jax.random.normal(key, flow.latent_shape, known.dtype))
        y = gaussian_completion(moments, observation, spread, known, event)
        return jnp.where(jnp.isfinite(flow.log_prob(params, y)), y, middle), info.evaluations

    events, spent = jax.vmap(one)(*paired_keys(key, count, known.dtype, antithetic))
    return events, middle, jnp.sum(spent) + count * flow.bijector.blocks


@full_precision
def draw_moved(
    key: jax.Array,
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    *,
    num_samples: int = 16,
    chains: int | None = None,
    moves: int,
    antithetic: bool = False,
    moments: Moments | None = None,
    max_hidden: int | None = None,
    max_observed: int | None = None,
) -> Draws:
    """Draw completions of ONE observation by moves alone; a pure function, to be used under ``jit`` and ``vmap``.

    Args:
        key: random key, used once.
        flow: the flow, static.
        params: its parameters.
        observation: from `jaxflows.observe`.
        y_observed: (*event,); its hidden part is ignored and may be NaN.
        num_samples: S.
        chains: how many there are, each giving about S / chains states of the second half of its moves, the last states of all
            first. S when None.
        moves: trajectories of each, `jaxflows.conditional.moves.move`.
        antithetic: chains in pairs, of opposite latents first and then of opposite momenta.
        moments: `event_moments` of the `moved_flow`; taken here when None, which under ``vmap`` is once for all rows.
        max_hidden, max_observed: static bounds on the coordinates hidden and observed; the event's size when None.

    Returns:
        The draws, of log-weight 0: ``anchor`` is the mean of the Gaussian's conditional, ``overlap`` and ``report`` are NaN.
        ``solve`` counts neither the moments nor anything unsolved. Cost: that of `conditional_spread` and of the moves.

    Raises:
        ValueError: chains that cannot be (`jaxflows.conditional.drawing_plan.check_chains`).
    """
    behind = behind_entrywise(flow)
    if behind is not None and is_mask(observation):
        draws = draw_moved(
            key, behind.flow, behind.parts(params)[1], observation,
            behind.images(params, observation.observed_part(y_observed)), num_samples=num_samples, chains=chains, moves=moves,
            antithetic=antithetic, moments=moments, max_hidden=max_hidden, max_observed=max_observed,
        )  # fmt: skip

        def event(u: jax.Array) -> jax.Array:
            return observation.restore(behind.events(params, u), y_observed)

        return draws._replace(samples=jax.vmap(event)(draws.samples), anchor=event(draws.anchor))
    chains = num_samples if chains is None else chains
    check_chains(chains, num_samples, moves, antithetic)
    moments = event_moments(flow, params) if moments is None else moments
    evaluations = moments.evaluations
    moments = jax.tree.map(lambda leaf: leaf.astype(y_observed.dtype), moments)._replace(evaluations=evaluations)
    known = observation.observed_part(y_observed)
    k_begin, k_move = jax.random.split(key)
    spread = conditional_spread(moments, observation, max_hidden, max_observed)
    begin, middle, spent = conditioned_events(k_begin, flow, params, observation, moments, spread, known, chains, antithetic)
    moved = move(k_move, flow, params, observation, spread, begin, moves, -(-num_samples // chains), antithetic)
    samples = jax.vmap(lambda y: observation.restore(y, known))(moved.samples[:num_samples])
    log_weights, report = unweighted(jnp.ones(num_samples, bool), samples.dtype)
    solve = no_work(samples.dtype, evaluations=spent + moved.evaluations)._replace(converged=jnp.ones((), samples.dtype))
    same, nan = jnp.full((), PARTITIONS.index("same"), jnp.int32), jnp.full((), jnp.nan, samples.dtype)
    return Draws(samples, log_weights, observation.restore(middle, known), same, nan, moved.acceptance, report, solve)
