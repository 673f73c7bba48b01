"""Complete a batch of rows, each with its own mask or all under one linear measurement: the front door of the library."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.call_record import call_record
from jaxflows.conditional.completion import Completion, blank, checked_resume, store
from jaxflows.conditional.drawing_plan import drawing_plan
from jaxflows.conditional.fit_posterior import Fitted
from jaxflows.conditional.measured_rows import MeasuredRows, measured_rows, rows_at_once
from jaxflows.conditional.mixture import draw_mixture
from jaxflows.conditional.moved_events import draw_moved, kept_moments, moved_flow
from jaxflows.conditional.partition import PARTITIONS
from jaxflows.conditional.posteriors import Posterior, is_anchored
from jaxflows.conditional.row_posteriors import amortised_theta, hidden_slots, observed_slots, posterior_choice, row_posteriors
from jaxflows.conditional.sample import Draws, draw_samples
from jaxflows.conditional.spreads import Moments
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.progress import progress_bar
from jaxflows.sharding import Devices, by_rows, replicated, row_mesh
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.robust import quick_solver, thorough_solver


class _Settings(NamedTuple):
    """What stays the same for all batches of a call; static under ``jit``."""

    flow: Flow
    posterior: Posterior
    solver: ConstraintSolver | None
    partition: str
    max_hidden: int
    max_observed: int
    num_samples: int
    fit_steps: int
    anchors: int
    mesh: Mesh | None
    weighted: bool
    antithetic: bool
    moves: int
    chains: int | None


class _Batch(NamedTuple):
    """Some rows: a key, an observation, its known part and, with an amortised posterior, its parameters for each."""

    keys: jax.Array
    observations: Observation
    known: jax.Array
    theta: Any


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw_rows(settings: _Settings, solver: ConstraintSolver, params: Params, batch: _Batch, fitted: Fitted) -> Draws:
    def one(params: Params, row: _Batch, fit: Fitted) -> Draws:
        return draw_samples(
            row.keys, settings.flow, params, row.observations, row.known, num_samples=settings.num_samples,
            posterior=settings.posterior, fitted=fit, solver=solver, max_hidden=settings.max_hidden,
            weighted=settings.weighted, antithetic=settings.antithetic, moves=settings.moves,
        )  # fmt: skip

    every = by_rows(lambda shared, rows: jax.vmap(functools.partial(one, shared))(*rows), settings.mesh)
    return every(params, (batch, fitted))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw_mixtures(settings: _Settings, solver: ConstraintSolver, params: Params, batch: _Batch) -> Draws:
    def one(params: Params, row: _Batch) -> Draws:
        return draw_mixture(
            row.keys, settings.flow, params, row.observations, row.known, num_samples=settings.num_samples,
            anchors=settings.anchors, solver=solver, max_hidden=settings.max_hidden, weighted=settings.weighted,
            antithetic=settings.antithetic,
        )  # fmt: skip

    # one row at a time: its anchors and draws are a batch already
    return by_rows(lambda shared, rows: jax.lax.map(functools.partial(one, shared), rows), settings.mesh)(params, batch)


@functools.partial(jax.jit, static_argnums=0)
def _draw_moved_rows(settings: _Settings, params: Params, moments: Moments, batch: _Batch) -> Draws:
    def one(shared: tuple[Params, Moments], row: _Batch) -> Draws:
        params, moments = shared
        return draw_moved(
            row.keys, settings.flow, params, row.observations, row.known, num_samples=settings.num_samples,
            chains=settings.chains, moves=settings.moves, antithetic=settings.antithetic, moments=moments,
            max_hidden=settings.max_hidden, max_observed=settings.max_observed,
        )  # fmt: skip

    every = by_rows(lambda shared, rows: jax.vmap(functools.partial(one, shared))(rows), settings.mesh)
    return every((params, moments), batch)


def complete(
    key: jax.Array,
    flow: Flow,
    params: Params,
    rows: Any,
    observed: Any,
    *,
    num_samples: int = 16,
    posterior: Posterior | Amortised | None = None,
    fit_steps: int | None = None,
    solver: ConstraintSolver | None = None,
    partition: str = "auto",
    anchors: int = 1,
    weighted: bool | None = None,
    antithetic: bool = False,
    moves: int | None = None,
    chains: int | None = None,
    resume: Completion | None = None,
    progress: bool = True,
    devices: Devices = None,
) -> Completion:
    """Draw completions of every row given its observed entries, or given linear measurements of it.

    Args:
        key: random key, used once. Row i uses ``fold_in(key, i)`` whatever else is in the batch.
        flow: the flow, static.
        params: its parameters.
        rows: (rows, *event), floating point; hidden entries may hold anything, NaN too. float16 is computed in float32.
            (rows, m) measurements b = A y where ``observed`` is a linear measurement.
        observed: (rows, *event) boolean, True where observed, or (*event,) for one mask for all; or what
            `jaxflows.observe.linear` or a function of `jaxflows.measurements` made.
        num_samples: S, draws a row.
        posterior: a family of `jaxflows.posteriors`; the Gauss-Newton posterior, which needs no fit, when None. A
            trainable family is fitted with ``fit_steps`` steps first (`jaxflows.fit_posterior` has every option). An
            amortised posterior (`jaxflows.fit_incomplete`) gives each row its mean-field Gaussian at once.
        fit_steps: gradient steps for a trainable family, 200 when None; for an amortised posterior 0 when None, and any
            number refines what the network said of each row.
        solver: the constraint solver; when None `jaxflows.solvers.robust.quick_solver`, and for rows in which it left a draw
            unsolved `jaxflows.solvers.robust.thorough_solver`, which is compiled only then.
        partition: which part of the latent is free, 'same', 'volume', 'tangent' or 'average'
            (`jaxflows.conditional.partition`); 'auto' chooses by row, and tries others for a row whose draws were not all
            solved.
        anchors: places from which an anchor is searched for. One sees one mode of the posterior; with more, draws come from a
            mixture of the Gauss-Newton posteriors at the anchors found (`jaxflows.conditional.mixture`), each with its own
            tangent partition, for as many times the work.
        weighted: whether draws are weighed, which is most of the work where events are large. If not, ``log_weights`` are 0
            for solved draws, so that they count alike, and bounds and effective sample sizes NaN. None for yes, except where
            the flow is explicit both ways and its events have hundreds of entries (`jaxflows.conditional.drawing_plan`).
        antithetic: draw in pairs, eta and -eta about the posterior's middle. Each draw has the law it had; of a pair the
            errors of a mean cancel, all of them where the flow is affine, so that ``mean`` is that of many more draws.
            Within a pair draws depend on each other: what takes them for independent wants ``samples[:, ::2]``. Moves without
            weights keep pairs, by opposite momenta; those with weights would part them, and are refused.
        moves: Hamiltonian trajectories by which every draw is moved after that, exact in their limit and with nothing to solve
            (`jaxflows.conditional.moves`): for flows that bend much, whose log p is explicit. Weights stay those before the
            moves, in which unsolved draws begin at the anchor. Without weights nothing is drawn from a posterior nor solved:
            events of the flow are moved, made completions by its own second moments (`jaxflows.conditional.moved_events`), of
            which no ``posterior`` or ``partition`` may then be given. None for 48 where draws are not weighed by default, else
            for none.
        chains: of moves without weights, how many a row has; each gives about num_samples / chains draws, its last state and
            others at even distances in the second half of its moves, which depend on each other: ``mean`` is nearer that of the
            posterior for the same work, and ``samples[:, :chains]`` are the independent last ones. None for a chain a draw.
        resume: an interrupted result of the same call: its finished rows are kept. The solver may be another.
        progress: show a progress bar with rate and time left.
        devices: over which rows are shared out, each solving its own; None for all of this process.

    Returns:
        `Completion`. An interrupt (Ctrl-C) ends the work early and returns the rows already done (``info.done``). Rows
        with everything observed come back as they are, with no work; rows with nothing observed are samples of the flow.

    Raises:
        ValueError: shapes and dtypes that do not fit, or NaN or infinity in an observed entry (row and position named); an
            amortised posterior with a linear measurement or another partition than its own, 'same'; several anchors with
            a posterior or a partition, which are then not free; moves with several anchors, of antithetic draws with weights,
            of a posterior that starts elsewhere than at Gauss-Newton's, or without weights of any that was chosen; chains that
            cannot be; a flow to be moved that has no finite events; ``resume`` of another call, the argument named.

    Cost: a row of d entries, K of them hidden, takes about 2 + S products of the Jacobian with K columns and as many
        K x K factorisations (2 without weights), and S constraint solves; with M anchors some M + 1 times that. A move of a
        chain takes 8 gradients of log p; moved without weights, a row needs nothing else but one K x K factorisation, and the
        call 2 d decodes for the moments. Inside ``jit`` use `jaxflows.conditional.sample.draw_samples`,
        `jaxflows.conditional.moved_events.draw_moved` or `jaxflows.conditional.mixture.draw_mixture`.
    """
    measured = measured_rows(flow, rows, observed)
    if num_samples < 1:
        raise ValueError(f"expected num_samples >= 1; got {num_samples}")
    choice = posterior_choice(posterior, observed, partition, fit_steps)
    plan = drawing_plan(flow, choice.family, choice.partition, weighted, moves, antithetic, anchors, num_samples, chains)
    mesh = row_mesh(devices, jax.local_devices())
    params = replicated(params, mesh)
    arrays = {"key": key, "params": params, "rows": measured.given, "observed": measured.what_is_seen()}
    asked = {
        "num_samples": num_samples, "moves": plan.moves, "chains": chains, "weighted": plan.weighted, "antithetic": antithetic,
        "anchors": anchors, "posterior": choice.family.name, "fit_steps": choice.fit_steps, "partition": choice.partition,
    }  # fmt: skip
    call = call_record(asked, arrays | {"network": choice.amortised})
    result = blank(measured, num_samples, call) if resume is None else checked_resume(resume, call)
    count = len(measured.given)
    notes = _notes(measured, flow.size) + ([] if plan.note is None else [plan.note])
    work = np.flatnonzero(measured.hidden_counts)
    max_hidden = hidden_slots(measured, flow.size)
    # how much is observed matters to moves alone, and nothing else is compiled anew for it
    max_observed = observed_slots(measured, flow.size) if plan.moves and not plan.weighted else flow.size
    settings = _Settings(
        flow, choice.family, solver, choice.partition, max_hidden, max_observed, num_samples, choice.fit_steps, anchors, mesh,
        plan.weighted, antithetic, plan.moves, chains,
    )  # fmt: skip
    shares = 1 if mesh is None else mesh.size
    at_once = rows_at_once(flow.size * max_hidden, -(-len(work) // shares)) * shares
    todo = work[~result.info.done[work]]
    moments = None
    try:
        if len(todo) and plan.moves and not plan.weighted:
            # each row's share, counted in every call
            moments = kept_moments(*moved_flow(flow, params, measured.observations(todo[:1])))
            moments = replicated(moments._replace(evaluations=-(-moments.evaluations // len(work))), mesh)
        with progress_bar(len(todo), description="complete", unit="row", show=progress and len(todo) > 0) as bar:
            for batch, keys, observations, known in measured.batches(key, todo, at_once):
                began = time.perf_counter()
                theta = amortised_theta(choice, max_hidden, observations, known)
                problem = _Batch(keys, observations, known, theta)
                store(result, measured, batch, _work(settings, params, problem, moments), time.perf_counter() - began)
                bar.update(len(batch))
    except KeyboardInterrupt:
        notes.append(f"interrupted: {int(result.info.done.sum())} of {count} rows done")
    return result._replace(notes=tuple(notes))


def _notes(measured: MeasuredRows, size: int) -> list[str]:
    count, notes = len(measured.given), []
    whole, empty = int(np.sum(measured.hidden_counts == 0)), int(np.sum(measured.hidden_counts == size))
    if whole:
        notes.append(f"{whole} of {count} rows have everything observed: returned as given, no work done")
    if empty:
        notes.append(f"{empty} of {count} rows have nothing observed: samples of the flow itself")
    return notes


def _work(settings: _Settings, params: Params, batch: _Batch, moments: Moments | None) -> Draws:
    if moments is not None:
        moved = _draw_moved_rows(settings, params, moments, batch)
        solve = moved.solve._replace(evaluations=moved.solve.evaluations + moments.evaluations)
        return jax.block_until_ready(moved._replace(solve=solve))
    if settings.anchors > 1:
        solver = settings.solver or thorough_solver(settings.flow, True)
        return jax.block_until_ready(_draw_mixtures(settings, solver, params, batch))
    fitted = _fit(settings, params, batch)
    solver = settings.solver or quick_solver(is_anchored(settings.posterior, fitted.start))
    drawn = _draw(settings, solver, params, batch, fitted)
    # only the rows with a draw left unsolved pay for what follows, and only then is it compiled
    for row in map(int, np.flatnonzero(np.asarray(drawn.solve.converged) < 1.0)):
        drawn = _retried(settings, params, _row(batch, row), _row(fitted, row), drawn, row)
    return jax.block_until_ready(drawn)


def _draw(settings: _Settings, solver: ConstraintSolver, params: Params, batch: _Batch, fitted: Fitted) -> Draws:
    """`_draw_rows`, compiled once whatever led to ``fitted``: of how that was found it knows nothing."""
    return _draw_rows(settings._replace(solver=None, partition="same", fit_steps=0), solver, params, batch, fitted)


def _row(batch: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row : row + 1], batch)


def _retried(settings: _Settings, params: Params, alone: _Batch, fitted: Fitted, drawn: Draws, row: int) -> Draws:
    """The draws with one row's replaced by those of the thorough solver, and then of other partitions, if they are better."""
    spent = drawn.solve.evaluations[row]
    best = _row(drawn, row)
    if settings.solver is None:
        best = _draw(
            settings, thorough_solver(settings.flow, is_anchored(settings.posterior, fitted.start)), params, alone, fitted
        )
        spent = spent + best.solve.evaluations[0]
    turned = int(drawn.partition[row]) != PARTITIONS.index("same")
    others = ("average", "same" if turned else "tangent") if settings.partition == "auto" else ()
    for partition in others:
        if best.solve.converged[0] == 1.0:
            break
        other = settings._replace(partition=partition)
        fitted = _fit(other, params, alone)
        solver = settings.solver or thorough_solver(settings.flow, is_anchored(settings.posterior, fitted.start))
        again = _draw(other, solver, params, alone, fitted)
        spent = spent + again.solve.evaluations[0]
        if _merit(again) > _merit(best):
            best = again
    best = best._replace(solve=best.solve._replace(evaluations=spent[None]))
    return jax.tree.map(lambda leaf, new: leaf.at[row].set(new[0]), drawn, best)


def _merit(drawn: Draws) -> jax.Array:
    """What to choose by between the draws of two partitions of one row: effective draws, or solved ones without weights."""
    ess = drawn.report.ess[0]
    return jnp.where(jnp.isnan(ess), drawn.solve.converged[0], ess)


def _fit(settings: _Settings, params: Params, batch: _Batch) -> Fitted:
    return row_posteriors(
        settings.posterior, settings.partition, settings.fit_steps, settings.max_hidden, settings.flow, params, batch.keys,
        batch.observations, batch.known, batch.theta, settings.solver, settings.mesh,
    )  # fmt: skip
