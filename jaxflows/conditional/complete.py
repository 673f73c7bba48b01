"""Complete a batch of rows, each with its own mask: the front door of the library."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows import observation as observe
from jaxflows.bijectors.base import Params
from jaxflows.conditional.diagnostics import resample
from jaxflows.conditional.fit_posterior import fit_posterior
from jaxflows.conditional.posteriors import Posterior, gauss_newton
from jaxflows.conditional.sample import Draws, draw_samples
from jaxflows.flows import Flow
from jaxflows.progress import progress_bar
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.robust import robust

# entries of the Jacobians held at once by one compiled call: 64 rows of 64 x 64, or one of 512 x 512
ENTRIES_AT_ONCE = 64 * 64 * 64


class RowInfo(NamedTuple):
    """Diagnostics, one entry a row.

    Attributes:
        residual: worst constraint residual max |P_H(g(y) - x_hidden)| over the row's draws.
        bound: lower bound on log p(y_observed) in nats; its standard error follows.
        bound_std_error: of ``bound``.
        iw_bound: importance-weighted bound, tighter.
        ess: effective sample size of the draws, of ``num_samples``.
        pareto_k: above 0.7 the weights cannot be trusted; NaN with fewer than 25 draws.
        converged: share of the draws whose constraint was solved to tolerance.
        evaluations: block evaluations spent.
        seconds: wall time, compilation included where it happened.
        done: False for rows that an interrupt left untouched; their samples are NaN where hidden.
    """

    residual: np.ndarray
    bound: np.ndarray
    bound_std_error: np.ndarray
    iw_bound: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray
    converged: np.ndarray
    evaluations: np.ndarray
    seconds: np.ndarray
    done: np.ndarray


class Completion(NamedTuple):
    """Completed rows.

    Attributes:
        samples: (rows, S, *event), draws from q, observed entries bit-identical to those given.
        log_weights: (rows, S), log p(y) - log q(y_hidden).
        mean: (rows, *event), mean of the draws that converged.
        std: (rows, *event), their standard deviation; 0 where observed.
        anchor: (rows, *event), the reference's own completion.
        info: `RowInfo`.
        notes: what was decided without being asked, in full sentences.
    """

    samples: np.ndarray
    log_weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    anchor: np.ndarray
    info: RowInfo
    notes: tuple[str, ...]

    def resampled(self, key: jax.Array, num_samples: int) -> np.ndarray:
        """(rows, num_samples, *event): self-normalised resampling by the importance weights."""
        keys = jax.random.split(key, len(self.samples))
        pick = jax.vmap(lambda k, s, w: resample(k, s, w, num_samples))
        return np.asarray(pick(keys, jnp.asarray(self.samples), jnp.asarray(self.log_weights)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _draw_rows(
    flow: Flow, posterior: Posterior, solver: ConstraintSolver, max_hidden: int, num_samples: int,
    params: Params, keys: jax.Array, observed: jax.Array, rows: jax.Array, fitted: Any,
) -> Draws:  # fmt: skip
    def one(key: jax.Array, seen: jax.Array, row: jax.Array, fit: Any) -> Draws:
        return draw_samples(
            key, flow, params, observe.mask(seen), row, num_samples=num_samples, posterior=posterior, fitted=fit,
            solver=solver, max_hidden=max_hidden,
        )  # fmt: skip

    return jax.vmap(one)(keys, observed, rows, fitted)


def check_rows(flow: Flow, rows: Any, observed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows and masks as arrays, or a ValueError that names the culprit (row and position)."""
    rows, observed = np.asarray(rows), np.asarray(observed)
    if not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(
            f"expected floating-point rows on the scale the flow was trained on; got dtype {rows.dtype} "
            "(for 8-bit images: rows / 255)"
        )
    if rows.shape[1:] != flow.event_shape or rows.ndim != len(flow.event_shape) + 1:
        raise ValueError(f"expected rows of shape (rows, {', '.join(map(str, flow.event_shape))}); got {rows.shape}")
    if observed.dtype != np.bool_:
        raise ValueError(f"expected a boolean mask, True where observed; got dtype {observed.dtype}")
    if observed.shape == flow.event_shape:
        observed = np.broadcast_to(observed, rows.shape)
    if observed.shape != rows.shape:
        raise ValueError(f"expected a mask of shape {rows.shape} or {flow.event_shape}; got {observed.shape}")
    bad = observed & ~np.isfinite(rows)
    if bad.any():
        row, *position = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"expected finite observed entries; got {rows[(row, *position)]} in row {row} at position {tuple(position)}"
        )
    return rows, observed


def complete(
    key: jax.Array,
    flow: Flow,
    params: Params,
    rows: Any,
    observed: Any,
    *,
    num_samples: int = 16,
    posterior: Posterior | None = None,
    fit_steps: int = 200,
    solver: ConstraintSolver | None = None,
    resume: Completion | None = None,
    progress: bool = True,
) -> Completion:
    """Draw completions of every row given its observed entries.

    Args:
        key: random key, used once. Row i uses ``fold_in(key, i)`` whatever else is in the batch.
        flow: the flow, static.
        params: its parameters.
        rows: (rows, *event), floating point; hidden entries may hold anything, NaN too. float16 is computed in float32.
        observed: (rows, *event) boolean, True where observed, or (*event,) for one mask for all.
        num_samples: S, draws a row.
        posterior: a family of `jaxflows.posteriors`; the Gauss-Newton posterior, which needs no fit, when None. A
            trainable family is fitted with ``fit_steps`` steps first (`jaxflows.fit_posterior` has every option).
        fit_steps: gradient steps for a trainable family.
        solver: the constraint solver; when None the boundary sweep, and for batches in which it left a draw unsolved the
            sweep with its Newton-Krylov fallback, which is compiled only then.
        resume: an interrupted result of the same call: its finished rows are kept.
        progress: show a progress bar with rate and time left.

    Returns:
        `Completion`. An interrupt (Ctrl-C) ends the work early and returns the rows already done (``info.done``). Rows
        with everything observed come back as they are, with no work; rows with nothing observed are samples of the flow.

    Raises:
        ValueError: shapes and dtypes that do not fit, or NaN or infinity in an observed entry (row and position named).

    Cost: a row of d entries, K of them hidden, takes about 6 + S products of the Jacobian with K columns and as many
        K x K factorisations, and S constraint solves. Inside ``jit`` use `jaxflows.conditional.sample.draw_samples`.
    """
    rows, observed = check_rows(flow, rows, observed)
    if num_samples < 1:
        raise ValueError(f"expected num_samples >= 1; got {num_samples}")
    posterior = gauss_newton() if posterior is None else posterior
    count, axes = len(rows), tuple(range(1, rows.ndim))
    hidden_counts = np.sum(~observed, axis=axes)
    result = _blank(flow, rows, observed, num_samples) if resume is None else _checked_resume(resume, rows, num_samples)
    notes = []
    whole, empty = hidden_counts == 0, hidden_counts == flow.size
    if whole.any():
        notes.append(f"{int(whole.sum())} of {count} rows have everything observed: returned as given, no work done")
        result.info.done[whole], result.info.converged[whole] = True, 1.0
    if empty.any():
        notes.append(f"{int(empty.sum())} of {count} rows have nothing observed: samples of the flow itself")
    # batches are cut from all rows with anything missing, done before or not: a resumed run computes what one run would
    work = np.flatnonzero(~whole)
    max_hidden = _slots(hidden_counts[work], flow.size)
    at_once = int(np.clip(ENTRIES_AT_ONCE // max(1, flow.size * max_hidden), 1, max(1, len(work))))
    todo = work[~result.info.done[work]]
    try:
        with progress_bar(len(todo), description="complete", unit="row", show=progress and len(todo) > 0) as bar:
            for begin in range(0, len(todo), at_once):
                batch = todo[begin : begin + at_once]
                # a short last batch is filled up with its own first row: one compiled shape for all
                padded = np.concatenate([batch, np.full(at_once - len(batch), batch[0], batch.dtype)])
                began = time.perf_counter()
                drawn = _work(key, flow, params, posterior, solver, max_hidden, num_samples, rows, observed, padded, fit_steps)
                _store(result, rows, observed, batch, drawn, time.perf_counter() - began)
                bar.update(len(batch))
    except KeyboardInterrupt:
        notes.append(f"interrupted: {int(result.info.done.sum())} of {count} rows done")
    return result._replace(notes=tuple(notes))


def _slots(hidden_counts: np.ndarray, size: int) -> int:
    # rounded up to a sixteenth of the event, so that batches of similar masks share one compiled program
    unit = max(1, size // 16)
    most = int(np.max(hidden_counts, initial=1))
    return int(min(size, -(-most // unit) * unit))


def _work(
    key: jax.Array, flow: Flow, params: Params, posterior: Posterior, solver: ConstraintSolver | None, max_hidden: int,
    num_samples: int, rows: np.ndarray, observed: np.ndarray, batch: np.ndarray, fit_steps: int,
) -> Draws:  # fmt: skip
    dtype = jnp.result_type(jnp.float32, rows.dtype)
    known = jnp.asarray(np.where(observed[batch], rows[batch], 0.0), dtype)
    seen = jnp.asarray(observed[batch])
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(batch))
    fitted = None
    if jax.tree.leaves(jax.eval_shape(lambda k: posterior.init(k, max_hidden), key)):
        observations = jax.vmap(observe.mask)(seen)
        fitted, trace = fit_posterior(
            jax.random.fold_in(keys[0], 1), flow, params, observations, known, posterior=posterior, steps=fit_steps,
            solver=solver, max_hidden=max_hidden, progress=False,
        )  # fmt: skip
        if trace.interrupted:
            raise KeyboardInterrupt
    problem = (keys, seen, known, fitted)
    run = functools.partial(_draw_rows, flow, posterior)
    drawn = run(solver or boundary_sweep(), max_hidden, num_samples, params, *problem)
    if solver is not None:
        return jax.block_until_ready(drawn)
    # only the rows with a draw left unsolved pay for the fallback, and only then is it compiled
    for row in np.flatnonzero(np.asarray(drawn.solve.converged) < 1.0):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], problem)
        again = run(robust(), max_hidden, num_samples, params, *alone)
        spent = drawn.solve.evaluations[row]
        drawn = jax.tree.map(lambda leaf, new, row=row: leaf.at[row].set(new[0]), drawn, again)
        evaluations = drawn.solve.evaluations.at[row].add(spent)
        drawn = drawn._replace(solve=drawn.solve._replace(evaluations=evaluations))
    return jax.block_until_ready(drawn)


def _blank(flow: Flow, rows: np.ndarray, observed: np.ndarray, num_samples: int) -> Completion:
    count = len(rows)
    dtype = np.float32 if rows.dtype == np.float16 else rows.dtype
    start = np.where(observed, rows, np.nan).astype(dtype)
    samples = np.repeat(start[:, None], num_samples, axis=1)
    scores = {name: np.full(count, np.nan) for name in RowInfo._fields}
    scores |= {"evaluations": np.zeros(count, np.int64), "done": np.zeros(count, bool), "seconds": np.zeros(count)}
    std = np.where(observed, 0.0, np.nan).astype(dtype)
    log_weights = np.zeros((count, num_samples), dtype)
    return Completion(samples, log_weights, start.copy(), std, start.copy(), RowInfo(**scores), ())


def _checked_resume(resume: Completion, rows: np.ndarray, num_samples: int) -> Completion:
    expected = (len(rows), num_samples, *rows.shape[1:])
    if resume.samples.shape != expected:
        raise ValueError(f"expected resume to hold samples of shape {expected}; got {resume.samples.shape}")
    arrays = jax.tree.map(np.array, resume._replace(notes=()))
    return arrays


def _store(result: Completion, rows: np.ndarray, observed: np.ndarray, batch: np.ndarray, drawn: Draws, seconds: float) -> None:
    kept = len(batch)
    drawn = jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], drawn)
    seen, given = observed[batch], rows[batch]
    result.samples[batch] = np.where(seen[:, None], given[:, None], drawn.samples)
    result.log_weights[batch] = drawn.log_weights
    # draws whose constraint was not solved are not completions: they stay visible in samples, flagged by their weight
    good = np.isfinite(drawn.log_weights)
    good = np.where(good.any(axis=1, keepdims=True), good, True)
    weights = (good / good.sum(axis=1, keepdims=True)).reshape(good.shape + (1,) * (rows.ndim - 1))
    mean = np.sum(weights * drawn.samples, axis=1)
    spread = np.sqrt(np.sum(weights * (drawn.samples - mean[:, None]) ** 2, axis=1))
    result.mean[batch] = np.where(seen, given, mean)
    result.std[batch] = np.where(seen, 0.0, spread)
    result.anchor[batch] = np.where(seen, given, drawn.anchor)
    for name, values in drawn.report._asdict().items():
        getattr(result.info, name)[batch] = values
    result.info.residual[batch] = drawn.solve.residual
    result.info.converged[batch] = drawn.solve.converged
    result.info.evaluations[batch] = drawn.solve.evaluations
    result.info.seconds[batch] = seconds / kept
    result.info.done[batch] = True
