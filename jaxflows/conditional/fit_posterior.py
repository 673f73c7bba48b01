"""Fit variational posteriors by stochastic gradient ascent on the bound (IVCNF Algorithm 1).

One jitted loop over a whole batch of observations: each row keeps its own parameters and optimiser state, stops moving
when its own bound has stopped rising, and starts every solve from a prediction of the solution.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.elbo import (
    STOCHASTIC_TOL,
    GradientEstimator,
    Inverses,
    draw,
    gradient_estimator,
    inverses_at_anchor,
    log_det_gap,
)
from jaxflows.conditional.gauss_newton import Reference
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.partition import LEAST_OVERLAP, PARTITIONS, check_partition, framed
from jaxflows.conditional.posteriors import Posterior, householder, is_anchored, reference
from jaxflows.conditional.score_moments import ScoreMoments, implied_gaussian, score_moments
from jaxflows.flows import Flow
from jaxflows.for_each_key import for_each_key
from jaxflows.observation import Observation
from jaxflows.precision import full_precision
from jaxflows.progress import progress_bar
from jaxflows.sharding import Devices, by_rows, replicated, row_mesh
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.robust import quick_solver

# steps compiled into one call; between calls the bound is measured, progress shown, and an interrupt can act
CHUNK = 20

# after so many chunks the family is set to what the draws so far tell of, where that has the better bound: each time they
# have about doubled
TURNS = (1, 2, 4, 8)


class Fitted(NamedTuple):
    """A posterior fitted to one observation (every leaf with a leading axis for a batch of them).

    Attributes:
        theta: the family's parameters.
        start: the reference they are written in.
    """

    theta: Any
    start: Reference


class FitTrace(NamedTuple):
    """How a fit went.

    Attributes:
        steps: (chunks + 1,), the step after which each bound was measured.
        bound: (chunks + 1, rows), exact bound on ``bound_samples`` common draws, in nats.
        bound_std_error: likewise, its standard error over the draws.
        unconverged: (rows,), share of the fit's constraint solves that did not converge; those draws carry no gradient.
        converged: (rows,), whether the row's bound had stopped rising before the steps ran out.
        interrupted: whether an interrupt ended the fit early.
    """

    steps: np.ndarray
    bound: np.ndarray
    bound_std_error: np.ndarray
    unconverged: np.ndarray
    converged: np.ndarray
    interrupted: bool


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
@full_precision
def _begin(
    flow: Flow, posterior: Posterior, mesh: Mesh | None, partition: str, max_hidden: int, params: Params,
    observations: Observation, y_observed: jax.Array, keys: jax.Array, theta: Any,
) -> Fitted:  # fmt: skip

    def one(params: Params, arguments: Any) -> Fitted:
        observation, known, key, given = arguments
        where = hidden(observation, max_hidden)
        start = reference(posterior, flow, params, where, observation.observed_part(known), partition)
        return Fitted(posterior.init(key, where.slots.size) if given is None else given, start)

    # one row at a time: the reference factorises K x K matrices, which batch badly on CPU
    every = by_rows(lambda shared, rows: jax.lax.map(functools.partial(one, shared), rows), mesh)
    return every(params, (observations, y_observed, keys, theta))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6, 7, 8))
@full_precision
def _advance(
    flow: Flow, posterior: Posterior, mesh: Mesh | None, solver: ConstraintSolver, max_hidden: int,
    optimizer: optax.GradientTransformation, estimator: GradientEstimator, num_samples: int, path_derivative: bool,
    params: Params, observations: Observation, y_observed: jax.Array, starts: Reference, inverses: Inverses, state: Any,
    moments: ScoreMoments, moving: jax.Array, keys: jax.Array,
) -> tuple[Any, ScoreMoments, jax.Array]:  # fmt: skip
    # the gradient with respect to each draw comes on the way to theta's
    nudged = posterior._replace(
        transform=lambda theta, used, eps: posterior.transform(theta[0], used, eps) + theta[1],
        log_prob=lambda theta, used, eta: posterior.log_prob(theta[0], used, eta),
    )

    def surrogate(
        theta: Any, nudges: jax.Array, params: Params, observation: Observation, known: jax.Array, start: Reference,
        inverses: Inverses, k: jax.Array,
    ) -> Any:  # fmt: skip
        where = hidden(observation, max_hidden)
        turned, turned_params = framed(flow, params, start.rotation)

        def one(k: jax.Array, nudge: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            k_eps, k_trace = jax.random.split(k)
            eps = jax.random.normal(k_eps, where.slots.shape)
            drawn = draw(
                eps, turned, turned_params, where, observation.observed_part(known), nudged, (theta, nudge), start, solver,
                lambda y: estimator(k_trace, turned, turned_params, where, y, inverses), path_derivative,
                linear_tol=STOCHASTIC_TOL,
            )  # fmt: skip
            return jnp.where(drawn.info.converged, drawn.log_weight, 0.0), drawn.eta, drawn.info.converged

        values, etas, converged = jax.vmap(one)(jax.random.split(k, num_samples), nudges)
        return -jnp.sum(values) / jnp.maximum(jnp.sum(converged), 1), (etas, converged)

    def row_step(
        params: Params, theta: Any, inner: Any, moments: Any, observation: Any, known: Any, start: Any, moves: Any,
        inverses: Any, k: Any,
    ) -> Any:  # fmt: skip
        used = hidden(observation, max_hidden).used
        nudges = jnp.zeros((num_samples, used.size), known.dtype)
        (gradient, by_draw), (etas, converged) = jax.grad(surrogate, argnums=(0, 1), has_aux=True)(
            theta, nudges, params, observation, known, start, inverses, k
        )
        if posterior.nearest is not None:
            # of log p alone, and of its mean over the draws
            scores = jax.vmap(lambda eta: jax.grad(posterior.log_prob, argnums=2)(theta, used, eta))(etas)
            rests = scores - by_draw * jnp.maximum(jnp.sum(converged), 1) + etas
            moments = jax.tree.map(jnp.add, moments, score_moments(etas, rests, converged))
        # one draw that overflowed must not end the fit
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient)]))
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, 0.0), gradient)
        updates, new_inner = optimizer.update(gradient, inner, theta)
        moved = optax.apply_updates(theta, updates)
        keep = moves & finite
        select = functools.partial(jax.tree.map, lambda new, old: jnp.where(keep, new, old))
        return select(moved, theta), select(new_inner, inner), moments, jnp.mean(1.0 - converged)

    def steps(params: Params, rows: Any) -> tuple[Any, ScoreMoments, jax.Array]:
        state, keys, observations, known, starts, moves, inverses = rows

        def step(state: Any, number: jax.Array) -> Any:
            of_step = jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)
            *state, failed = jax.vmap(lambda *row: row_step(params, *row))(
                *state, observations, known, starts, moves, inverses, of_step
            )
            return tuple(state), failed

        (theta, inner, moments), failed = jax.lax.scan(step, state, jnp.arange(CHUNK))
        return (theta, inner), moments, jnp.mean(failed, axis=0)

    return by_rows(steps, mesh)(params, ((*state, moments), keys, observations, y_observed, starts, moving, inverses))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@full_precision
def _inverses(
    flow: Flow, mesh: Mesh | None, max_hidden: int, params: Params, observations: Observation, starts: Reference
) -> Inverses:
    """What preconditions the solves of a fit, for every row."""

    def one(params: Params, arguments: Any) -> Inverses:
        observation, start = arguments
        return inverses_at_anchor(*framed(flow, params, start.rotation), hidden(observation, max_hidden), start)

    every = by_rows(lambda shared, rows: jax.lax.map(functools.partial(one, shared), rows), mesh)
    return every(params, (observations, starts))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _nearest(posterior: Posterior, mesh: Mesh | None, max_hidden: int, observations: Observation, moments: ScoreMoments) -> Any:
    """The members of the family nearest to the Gaussians that the draws so far tell of."""

    def one(arguments: Any) -> Any:
        observation, moments = arguments
        used = hidden(observation, max_hidden).used
        assert posterior.nearest is not None
        return posterior.nearest(used, *implied_gaussian(moments, used))

    return by_rows(lambda shared, rows: jax.lax.map(one, rows), mesh)((), (observations, moments))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
@full_precision
def _measure(
    flow: Flow, posterior: Posterior, mesh: Mesh | None, solver: ConstraintSolver, max_hidden: int, num_samples: int,
    params: Params, observations: Observation, y_observed: jax.Array, starts: Reference, theta: Any, keys: jax.Array,
) -> jax.Array:  # fmt: skip
    def row(params: Params, arguments: Any) -> jax.Array:
        observation, known, start, theta, k = arguments
        where = hidden(observation, max_hidden)
        turned, turned_params = framed(flow, params, start.rotation)

        def one(k: jax.Array) -> jax.Array:
            drawn = draw(
                jax.random.normal(k, where.slots.shape), turned, turned_params, where, observation.observed_part(known),
                posterior, theta, start, solver, lambda y: log_det_gap(turned, turned_params, where, y),
            )  # fmt: skip
            return jnp.where(drawn.info.converged, drawn.log_weight, jnp.nan)

        return for_each_key(one, k, num_samples)

    every = by_rows(lambda shared, rows: jax.lax.map(functools.partial(row, shared), rows), mesh)
    return every(params, (observations, y_observed, starts, theta, keys))


def begin(
    flow: Flow, posterior: Posterior, partition: str, max_hidden: int, params: Params, observations: Observation,
    y_observed: jax.Array, keys: jax.Array, theta: Any = None, mesh: Mesh | None = None,
) -> Fitted:  # fmt: skip
    """The family's start for each of a batch of observations; without rotations of the latent where no row needs one.

    The start is ``theta``, every leaf with a leading axis for the rows, where it is given. Rows are shared out over ``mesh``.
    What follows is then simpler and faster, and for flows near the identity that is nearly always so: 'auto' looks at the same
    coordinates first.
    """
    run = functools.partial(_begin, flow, posterior, mesh)
    arguments = (max_hidden, params, observations, y_observed, keys, theta)
    if partition == "auto" and not flow.bijector.explicit:
        same = run("same", *arguments)
        if not bool(jnp.any(same.start.overlap < LEAST_OVERLAP)):
            return same
    fitted = run(partition, *arguments)
    if bool(jnp.all(fitted.start.partition == PARTITIONS.index("same"))):
        return fitted._replace(start=fitted.start._replace(rotation=None))
    return fitted


def _chosen(rows: np.ndarray, these: Any, those: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b), these, those)


@functools.cache
def _default_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """The same object for the same arguments: it is static under ``jit``."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, -(-steps // CHUNK) * CHUNK))


def fit_posterior(
    key: jax.Array,
    flow: Flow,
    params: Params,
    observations: Observation,
    y_observed: jax.Array,
    *,
    posterior: Posterior | None = None,
    theta: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 200,
    num_samples: int = 8,
    estimator: str | GradientEstimator = "nlade",
    path_derivative: bool = True,
    solver: ConstraintSolver | None = None,
    partition: str = "auto",
    max_hidden: int | None = None,
    bound_samples: int = 32,
    tolerance: float = 1.0,
    progress: bool = True,
    devices: Devices = None,
) -> tuple[Fitted, FitTrace]:
    """Fit q(x_hidden) to each of a batch of observations by maximising the bound.

    Steps of an optimiser, and after 20, 40, 80 and 160 of them a jump to the member of the family nearest to the Gaussian that
    the draws and their gradients so far tell of (`jaxflows.conditional.score_moments`), in rows whose bound it raises.

    Args:
        key: random key, used once; or a key for each row, so that a row's fit does not depend on the others.
        flow: the flow, static.
        params: its parameters.
        observations: a batch, every leaf with a leading axis (``jax.vmap(jf.observe.mask)(masks)``), or ONE observation.
        y_observed: (rows, *event), or (*event,) for one.
        posterior: a family of `jaxflows.posteriors`; ``householder(num_reflections=20)`` when None.
        theta: where the family starts, for a batch with a leading axis in every leaf, such as
            `jaxflows.conditional.amortised.mean_fields`; its own start when None.
        optimizer: an optax transformation; Adam, its rate falling from the family's own (``posterior.learning_rate``) to 0 by
            a cosine over ``steps``, when None.
        steps: gradient steps, rounded up to a multiple of 20.
        num_samples: draws per row and step.
        estimator: 'nlade', 'clade' or 'exact', or one made by its factory in `jaxflows.conditional.elbo`.
        path_derivative: drop the score term, whose expectation is zero.
        solver: the constraint solver; when None `jaxflows.solvers.robust.quick_solver`: a draw it leaves unsolved carries no
            gradient, and a fallback would hold up the whole batch for it.
        partition: which part of the latent is free, row by row (`jaxflows.conditional.partition`).
        max_hidden: a static bound on the number of hidden coordinates of a row; counted from the masks when None.
        bound_samples: draws on which the bound is measured between chunks of 20 steps, the same each time.
        tolerance: a row has converged when its bound rose by less than this many standard errors over two chunks; 0 never.
        progress: show a progress bar with rate, time left and mean bound.
        devices: over which the rows are shared out, None for all of this process.

    Returns:
        ``(fitted, trace)``.

    Raises:
        ValueError: shapes, counts or an estimator that do not fit.

    Cost: a step costs rows x num_samples constraint solves, as many GMRES solves for the implicit gradient, and the
        estimator's; a jump costs K^3 arithmetic and a measurement of the bound. An interrupt (Ctrl-C) ends the fit early and
        returns what it has reached.
    """
    posterior = householder() if posterior is None else posterior
    optimizer = _default_optimizer(posterior.learning_rate, steps) if optimizer is None else optimizer
    check_partition(partition)
    chosen = gradient_estimator(estimator)
    if steps < 1 or num_samples < 1 or bound_samples < 2:
        raise ValueError(
            f"expected steps >= 1, num_samples >= 1, bound_samples >= 2; got {steps}, {num_samples}, {bound_samples}"
        )
    single = tuple(jnp.shape(y_observed)) == flow.event_shape
    if single:
        observations, y_observed, theta = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (observations, y_observed, theta))
    if tuple(y_observed.shape[1:]) != flow.event_shape or observations.observed.shape != y_observed.shape:
        raise ValueError(
            f"expected y_observed and observations of shape (rows, {', '.join(map(str, flow.event_shape))}); "
            f"got {tuple(y_observed.shape)} and {tuple(observations.observed.shape)}"
        )
    if max_hidden is None:
        max_hidden = max(1, int(jnp.max(jnp.sum(~observations.observed.reshape(len(y_observed), -1), axis=1))))
    rows = len(y_observed)
    mesh = row_mesh(devices, jax.local_devices())
    # of one key the data has one axis, whether it is typed or not
    keys = key if jax.random.key_data(key).ndim > 1 else jax.random.split(key, rows)
    k_init, k_bound, k_steps = (jax.vmap(lambda k, i=i: jax.random.split(k, 3)[i])(keys) for i in range(3))
    problem = (replicated(params, mesh), observations, y_observed)
    theta, starts = begin(flow, posterior, partition, max_hidden, *problem, k_init, theta, mesh)
    if solver is None:
        solver = quick_solver(is_anchored(posterior, starts))
    state = (theta, jax.vmap(optimizer.init)(theta))
    nothing = score_moments(*(jnp.zeros((1, max_hidden), y_observed.dtype),) * 2, jnp.zeros(1, bool))
    moments = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape), leaf.dtype), nothing)
    if not jax.tree.leaves(theta):
        steps = 0
    inverses = _inverses(flow, mesh, max_hidden, problem[0], observations, starts) if steps else None
    measure = functools.partial(_measure, flow, posterior, mesh, solver, max_hidden, bound_samples, *problem, starts)
    weights = [np.asarray(measure(theta, k_bound))]
    moving, failed, measured_at, interrupted = np.ones(rows, bool), [], [0], False
    chunks = -(-steps // CHUNK)
    with progress_bar(chunks * CHUNK, description="fit posterior", show=progress) as bar:
        for chunk in range(chunks):
            try:
                state, moments, failure = _advance(
                    flow, posterior, mesh, solver, max_hidden, optimizer, chosen, num_samples, path_derivative, *problem,
                    starts, inverses, state, moments, jnp.asarray(moving),
                    jax.vmap(lambda k, c=chunk: jax.random.fold_in(k, c))(k_steps),
                )  # fmt: skip
                weighed = np.asarray(measure(state[0], k_bound))
                if posterior.nearest is not None and chunk + 1 in TURNS:
                    found = _nearest(posterior, mesh, max_hidden, observations, moments)
                    rival = np.asarray(measure(found, k_bound))
                    # the same draws for both, those that both solved; and no fewer of them solved
                    better = moving & (np.nansum(rival - weighed, axis=1) > 0.0)
                    better &= np.isnan(rival).sum(axis=1) <= np.isnan(weighed).sum(axis=1)
                    weighed = np.where(better[:, None], rival, weighed)
                    state = (_chosen(better, found, state[0]), state[1])
                weights.append(weighed)
            except KeyboardInterrupt:
                interrupted = True
                break
            failed.append(np.asarray(failure))
            measured_at.append((chunk + 1) * CHUNK)
            bar.update(CHUNK)
            bar.set_postfix_str(f"bound {np.nanmean(weights[-1]):.3f} nats")
            if len(weights) > 2:
                # the same draws before and after: the difference has a far smaller error than either bound
                rise = weights[-1] - weights[-3]
                error = np.nanstd(rise, axis=1) / np.sqrt(bound_samples)
                moving &= ~(np.nanmean(rise, axis=1) < tolerance * error) if tolerance > 0 else True
            if not moving.any():
                break
    bounds = np.stack(weights)
    trace = FitTrace(
        steps=np.asarray(measured_at),
        bound=np.nanmean(bounds, axis=-1),
        bound_std_error=np.nanstd(bounds, axis=-1, ddof=1) / np.sqrt(bound_samples),
        unconverged=np.mean(failed, axis=0) if failed else np.zeros(rows),
        converged=~moving,
        interrupted=interrupted,
    )
    fitted = Fitted(state[0], starts)
    return (jax.tree.map(lambda leaf: leaf[0], fitted) if single else fitted), trace
