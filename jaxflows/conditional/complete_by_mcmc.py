"""Completions by exact Markov chain Monte Carlo in the free latent: the reference that shows how far q is.

Given y_observed, the free latent x_hidden has the density (docs/design.md, section 2)

    pi(x_hidden)  ~  p0(x_hidden) p0(x_observed) / |det J^OO|,   x = g(y),  y the solution for x_hidden,

and no tolerance on what was observed. A posterior q, fitted or not, is a map x_hidden(eps) of standard normals eps. The chains
live in eps, where q is N(0, I), so that its covariance is their preconditioner:

    log pi(eps) = log w(eps) + log N(eps; 0, I),   log w = log p(y) - log q(y_hidden),

w being the weight that `jaxflows.complete` gives the draw eps. Where q is the posterior, w is constant and the target N(0, I);
with another q it is as exact, and mixes as well as q fits (Hoffman et al. 2019, NeuTra). Exact means of the events that the
solver finds: where a constraint has several solutions, or is not solved, the chains know no more of the others than `complete`.
The steps are those of the Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996), by blackjax:
``pip install jaxflows[mcmc]``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.elbo import draw, log_det_gap
from jaxflows.conditional.fit_posterior import Fitted
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.measured_rows import MeasuredRows, measured_rows, rows_at_once
from jaxflows.conditional.partition import framed
from jaxflows.conditional.posteriors import Posterior, hidden_normal_log_prob, is_anchored
from jaxflows.conditional.row_posteriors import amortised_theta, hidden_slots, posterior_choice, row_posteriors
from jaxflows.flows import Flow
from jaxflows.metrics.chain_convergence import bulk_ess, split_r_hat
from jaxflows.observation import Observation
from jaxflows.precision import full_precision
from jaxflows.progress import progress_bar
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.robust import quick_solver

# the share of accepted steps at which Langevin chains mix best as dimensions grow (Roberts and Rosenthal 1998)
TARGET_ACCEPTANCE = 0.574


class McmcDraws(NamedTuple):
    """What the chains of one observation left.

    Attributes:
        samples: (chains, draws, *event), the observed part exactly what was given.
        log_weights: (chains, draws), log p(y) - log q(y_hidden) of each: as constant as q is good.
        acceptance: mean chance of the steps after warm-up to be accepted.
        unsolved: share of the proposals without any chance, since their constraint was not solved. The chains keep to where it
            is: a share above 0 is a part of the posterior that they may not see.
        r_hat: largest split R-hat of the hidden coordinates.
        ess: least bulk effective sample size of them.
        step_size: of the Langevin steps, adapted while warming up and then held.
        started: share of the chains that found a place where the constraint is solved; the others' samples mean nothing.
    """

    samples: jax.Array
    log_weights: jax.Array
    acceptance: jax.Array
    unsolved: jax.Array
    r_hat: jax.Array
    ess: jax.Array
    step_size: jax.Array
    started: jax.Array


class McmcRowInfo(NamedTuple):
    """Diagnostics, one entry a row.

    Attributes:
        acceptance, unsolved, r_hat, ess, step_size, started: as in `McmcDraws`.
        solves: constraint solves, each but the kept draws' with its gradient.
        seconds: wall time, compilation included where it happened.
        done: False for rows that an interrupt left untouched; their samples are NaN where hidden.
    """

    acceptance: np.ndarray
    unsolved: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    step_size: np.ndarray
    started: np.ndarray
    solves: np.ndarray
    seconds: np.ndarray
    done: np.ndarray


class McmcCompletion(NamedTuple):
    """Completed rows.

    Attributes:
        samples: (rows, S, *event), S = chains * draws, chain after chain; observed entries bit-identical to those given.
        log_weights: (rows, S), log p(y) - log q(y_hidden), under the posterior; not weights of these samples.
        mean: (rows, *event), mean of the samples.
        std: (rows, *event), their standard deviation; 0 where observed.
        info: `McmcRowInfo`.
        notes: what the reader has to know, in full sentences.
    """

    samples: np.ndarray
    log_weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    info: McmcRowInfo
    notes: tuple[str, ...]


class _Settings(NamedTuple):
    """What stays the same for all rows of a call; static under ``jit``."""

    flow: Flow
    posterior: Posterior
    max_hidden: int
    chains: int
    warm_up: int
    draws: int
    thin: int


@full_precision
def mcmc_draws(
    key: jax.Array,
    flow: Flow,
    params: Params,
    observation: Observation,
    y_observed: jax.Array,
    *,
    posterior: Posterior,
    fitted: Fitted,
    chains: int,
    warm_up: int,
    draws: int,
    thin: int,
    solver: ConstraintSolver | None = None,
) -> McmcDraws:
    """Chains for ONE observation; a pure function, to be used under ``jit``. Arguments as `complete_by_mcmc`'s.

    Args:
        key: random key, used once.
        flow, params, observation, y_observed: as `jaxflows.conditional.sample.draw_samples`.
        posterior, fitted: q, from `jaxflows.fit_posterior` or `jaxflows.conditional.fit_posterior.begin`.
        chains, warm_up, draws, thin, solver: the chains'.
    """
    # optional, and slow to import
    mala = importlib.import_module("blackjax.mcmc.mala")
    averaging = importlib.import_module("blackjax.adaptation.step_size").dual_averaging_adaptation(TARGET_ACCEPTANCE)
    theta, start = fitted
    where = hidden(observation, start.mean.size)
    known = observation.observed_part(y_observed)
    solver = quick_solver(is_anchored(posterior, start)) if solver is None else solver
    turned, turned_params = framed(flow, params, start.rotation)

    def drawn(eps: jax.Array, log_det: Any) -> Any:
        return draw(eps, turned, turned_params, where, known, posterior, theta, start, solver, log_det)

    def log_density(eps: jax.Array) -> jax.Array:
        found = drawn(eps, lambda y: log_det_gap(turned, turned_params, where, y))
        value = found.log_weight + hidden_normal_log_prob(where.used, eps)
        return jnp.where(found.info.converged & jnp.isfinite(value), value, -jnp.inf)

    kernel = mala.build_kernel()

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        states, adapting = carry
        k, warming = inputs
        step_size = jnp.exp(jnp.where(warming, adapting.log_step_size, adapting.log_step_size_avg)).astype(eps.dtype)
        # unused slots walk at random: the density does not depend on them, and their terms of both proposals cancel
        moved = jax.vmap(lambda key, state: kernel(key, state, log_density, step_size))
        states, info = moved(jax.random.split(k, chains), states)
        adapted = averaging[1](adapting, jnp.mean(info.acceptance_rate))
        adapting = jax.tree.map(lambda new, old: jnp.where(warming, new, old), adapted, adapting)
        return (states, adapting), (states.position, states.logdensity, info.acceptance_rate)

    k_start, k_steps = jax.random.split(key)
    eps = jax.random.normal(k_start, (chains, flow.size), known.dtype)[:, : where.slots.size]
    # of density zero, so that the first proposal whose constraint is solved is accepted, whatever it is
    begin = mala.MALAState(eps, jnp.full(chains, -jnp.inf, eps.dtype), jnp.zeros_like(eps))
    # the step's size that K dimensions allow; the adaptation looks around ten times it first
    first = 0.1 / jnp.maximum(jnp.sum(where.used), 1).astype(float) ** (1 / 3)
    steps = warm_up + draws * thin
    keys, warming = jax.random.split(k_steps, steps), jnp.arange(steps) < warm_up
    (states, adapting), trace = jax.lax.scan(step, (begin, averaging[0](first)), (keys, warming))
    positions, log_densities = (leaf[warm_up + thin - 1 :: thin] for leaf in trace[:2])
    chances = trace[2][warm_up:]
    events = jax.lax.map(jax.vmap(lambda e: drawn(e, lambda y: jnp.zeros((), y.dtype)).solution.y), positions)
    log_weights = log_densities - jax.vmap(jax.vmap(lambda e: hidden_normal_log_prob(where.used, e)))(positions)
    started = jnp.mean(jnp.isfinite(states.logdensity).astype(eps.dtype))
    unsolved = jnp.mean((chances == 0.0).astype(eps.dtype))
    step_size = jnp.exp(adapting.log_step_size_avg)
    events = jax.vmap(jax.vmap(lambda y: observation.restore(y, known)))(jnp.moveaxis(events, 0, 1))
    coordinates = jax.vmap(jax.vmap(where.compress))(events)
    r_hat = jnp.max(jnp.where(where.used, split_r_hat(coordinates), -jnp.inf))
    ess = jnp.min(jnp.where(where.used, bulk_ess(coordinates), jnp.inf))
    return McmcDraws(events, log_weights.T, jnp.mean(chances), unsolved, r_hat, ess, step_size, started)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    settings: _Settings, solver: ConstraintSolver | None, params: Params, keys: jax.Array, observations: Observation,
    known: jax.Array, fitted: Fitted,
) -> McmcDraws:  # fmt: skip
    flow, posterior, _, chains, warm_up, draws, thin = settings

    def one(key: jax.Array, observation: Observation, y_observed: jax.Array, fit: Fitted) -> McmcDraws:
        return mcmc_draws(
            key, flow, params, observation, y_observed, posterior=posterior, fitted=fit, chains=chains, warm_up=warm_up,
            draws=draws, thin=thin, solver=solver,
        )  # fmt: skip

    return jax.vmap(one)(keys, observations, known, fitted)


def complete_by_mcmc(
    key: jax.Array,
    flow: Flow,
    params: Params,
    rows: Any,
    observed: Any,
    *,
    chains: int = 8,
    warm_up: int = 200,
    draws: int = 100,
    thin: int = 4,
    posterior: Posterior | Amortised | None = None,
    fit_steps: int | None = None,
    solver: ConstraintSolver | None = None,
    partition: str = "auto",
    progress: bool = True,
) -> McmcCompletion:
    """Complete rows by exact MCMC, started at draws of a posterior and preconditioned by it.

    Where `jaxflows.complete` is fast and says by its weights how far to trust it, this is slow and exact in the limit: a
    reference to hold `complete`, or an amortised posterior, against.

    Args:
        key: random key, used once. Row i uses ``fold_in(key, i)`` whatever else is in the batch.
        flow, params, rows, observed: as in `jaxflows.complete`.
        chains: a row, at least 2, which R-hat compares.
        warm_up: steps of every chain in which the step size is adapted, the row's chains together, and nothing is kept.
        draws: kept of every chain after it, at least 4.
        thin: steps from one kept draw to the next.
        posterior: q; Gauss-Newton when None. Exactness does not depend on it, mixing does.
        fit_steps: for a trainable family, as in `jaxflows.complete`.
        solver: the constraint solver; `jaxflows.solvers.robust.quick_solver` when None. Where it leaves proposals unsolved
            (``info.unsolved``) take `jaxflows.solvers.robust.thorough_solver`, which compiles for longer.
        partition: of the latent, as in `jaxflows.complete`, except that nothing is tried again.
        progress: show a progress bar with rate and time left.

    Returns:
        `McmcCompletion`: trust a row whose ``r_hat`` is below 1.01 and whose ``ess`` is in the hundreds. An interrupt (Ctrl-C)
        returns the rows already done (``info.done``). Rows with everything observed come back as they are.

    Raises:
        ImportError: without blackjax.
        ValueError: as `jaxflows.complete`, and numbers of chains and steps that are too small.

    Cost: a step takes a constraint solve for every chain, its gradient (one GMRES solve), and the exact log-determinant of
        K + d products of the Jacobian, differentiated.

    Example:
        >>> truth = jaxflows.complete_by_mcmc(key, flow, params, rows, observed)
        >>> fast = jaxflows.complete(key, flow, params, rows, observed)
        >>> (abs(fast.mean - truth.mean) / truth.std)[~observed].max()
    """
    measured = measured_rows(flow, rows, observed)
    choice = posterior_choice(posterior, observed, partition, fit_steps)
    for name, value, least in (("chains", chains, 2), ("warm_up", warm_up, 1), ("draws", draws, 4), ("thin", thin, 1)):
        if value < least:
            raise ValueError(f"expected {name} >= {least}; got {value}")
    if importlib.util.find_spec("blackjax") is None:
        raise ImportError("expected blackjax to be installed, `pip install jaxflows[mcmc]`; got no such module")
    max_hidden = hidden_slots(measured, flow.size)
    settings = _Settings(flow, choice.family, max_hidden, chains, warm_up, draws, thin)
    result = _blank(measured, chains * draws)
    work = np.flatnonzero(measured.hidden_counts)
    at_once = rows_at_once(flow.size * max_hidden * chains, len(work))
    notes = []
    try:
        with progress_bar(len(work), description="mcmc", unit="row", show=progress and len(work) > 0) as bar:
            for batch, keys, observations, known in measured.batches(key, work, at_once):
                began = time.perf_counter()
                fitted = row_posteriors(
                    choice.family, choice.partition, choice.fit_steps, max_hidden, flow, params, keys, observations, known,
                    amortised_theta(choice, max_hidden, observations, known), solver,
                )  # fmt: skip
                drawn = jax.block_until_ready(_run(settings, solver, params, keys, observations, known, fitted))
                _store(result, measured, batch, drawn, settings, time.perf_counter() - began)
                bar.update(len(batch))
    except KeyboardInterrupt:
        notes.append(f"interrupted: {int(result.info.done.sum())} of {len(measured.given)} rows done")
    lost = int(np.sum(result.info.started < 1.0))
    if lost:
        notes.append(f"in {lost} rows some chain found no place where the constraint is solved: its samples mean nothing")
    return result._replace(notes=tuple(notes))


def _blank(measured: MeasuredRows, num_samples: int) -> McmcCompletion:
    """No row done: NaN where hidden; rows with nothing hidden are done."""
    whole = measured.hidden_counts == 0
    count = len(whole)
    start = np.where(measured.seen, measured.given, np.nan).astype(measured.given.dtype)
    start[whole] = measured.given[whole]
    scores = {name: np.full(count, np.nan) for name in McmcRowInfo._fields}
    scores |= {"solves": np.zeros(count, np.int64), "seconds": np.zeros(count), "done": whole.copy()}
    samples = np.repeat(start[:, None], num_samples, axis=1)
    std = np.where(np.isnan(start), np.nan, 0.0).astype(start.dtype)
    return McmcCompletion(samples, np.zeros((count, num_samples), start.dtype), start.copy(), std, McmcRowInfo(**scores), ())


def _store(
    result: McmcCompletion, measured: MeasuredRows, batch: np.ndarray, drawn: McmcDraws, settings: _Settings, seconds: float
) -> None:
    kept = len(batch)
    drawn = jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], drawn)
    seen, given = measured.seen[batch], measured.given[batch]
    samples = drawn.samples.reshape(kept, -1, *given.shape[1:])
    result.samples[batch] = np.where(seen[:, None], given[:, None], samples)
    result.log_weights[batch] = drawn.log_weights.reshape(kept, -1)
    result.mean[batch] = np.where(seen, given, samples.mean(axis=1, dtype=np.float64))
    result.std[batch] = np.where(seen, 0.0, samples.std(axis=1, dtype=np.float64))
    for name in ("acceptance", "unsolved", "r_hat", "ess", "step_size", "started"):
        getattr(result.info, name)[batch] = getattr(drawn, name)
    a_chain = settings.warm_up + settings.draws * (settings.thin + 1)
    result.info.solves[batch] = settings.chains * a_chain
    result.info.seconds[batch] = seconds / kept
    result.info.done[batch] = True
