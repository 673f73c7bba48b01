"""Training on rows with holes by Monte Carlo expectation maximisation (Wei and Tanner 1990), out of `complete` and `fit`.

    E    complete every row by draws of p(y_hidden | y_observed), resampled by their importance weights
    M    a few epochs of maximum likelihood on the completed rows

Any posterior of the library draws. Where its weights are even the draws are the conditional's and the fixed points are those
of the observed-data likelihood; the effective sample size of each round says how far that holds. It needs no network and no
gradient through a solve, and pays with a completion of all rows a round: for tables and small sets of images.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.complete import complete
from jaxflows.conditional.posteriors import Posterior
from jaxflows.data.incomplete_rows import median_filling, noisy_fill
from jaxflows.flows import Flow
from jaxflows.known_mean import known_mean
from jaxflows.log_det.estimators import Estimator
from jaxflows.metrics.gaussian_baseline import Gaussian, gaussian_conditional
from jaxflows.metrics.gaussian_em import fit_gaussian_em
from jaxflows.progress import progress_bar
from jaxflows.training.checkpoint import Checkpoints, Progress, structure
from jaxflows.training.fit import fit
from jaxflows.training.incomplete_data import IncompleteData, incomplete_data
from jaxflows.training.loop import dtype_of
from jaxflows.training.metrics_writers import MetricsWriter, metrics_writer, writing
from jaxflows.training.rows import digest

FILLS = ("gaussian", "median")


class EmReport(NamedTuple):
    """How the maximisation went, one entry a round; completion in round r is by the flow of round r - 1.

    Attributes:
        losses: (rounds,) mean training loss of the round's last epoch on completed rows, in nats per dimension.
        bound: (rounds - 1,) mean importance-weighted bound on log p(y_observed) per dimension before the round, over rows with
            something missing.
        ess: (rounds - 1,) mean effective sample size of those rows, as a share of the draws.
        converged: (rounds - 1,) share of the draws whose constraint was solved.
        empty_rows: rows with nothing observed, which were skipped.
        resumed_at: rounds that a checkpoint had behind it; 0 for a fresh run.
    """

    losses: np.ndarray
    bound: np.ndarray
    ess: np.ndarray
    converged: np.ndarray
    empty_rows: int
    resumed_at: int


def fit_by_em(
    key: jax.Array,
    flow: Flow,
    data: Any,
    observed: Any,
    *,
    rounds: int = 10,
    epochs: int = 5,
    num_samples: int = 4,
    draws: int = 16,
    posterior: Posterior | Amortised | None = None,
    fit_steps: int | None = None,
    fill: str | Gaussian = "gaussian",
    params: Params | None = None,
    batch_size: int = 256,
    learning_rate: float | None = None,
    estimator: Estimator | None = None,
    ema_decay: float = 0.9,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    metrics: str | os.PathLike[str] | MetricsWriter | None = None,
) -> tuple[Params, EmReport]:
    """Alternate completing the rows by the flow and training the flow on the completed rows.

    Args:
        key: random key, used once.
        flow: the model.
        data: (n, *event_shape) floating point; anything where hidden.
        observed: (n, *event_shape) boolean, True where observed.
        rounds: M steps; the first is on rows filled without a flow.
        epochs: of each M step.
        num_samples: completed copies of each row in an M step.
        draws: from the posterior, of which those copies are resampled.
        posterior, fit_steps: as in `jaxflows.complete`.
        fill: what the first round is trained on: draws of a Gaussian fitted by EM ('gaussian'), or of one given, such as
            `jaxflows.metrics.fit_gaussian_pairs` fits to many large rows, or the median and noise of the observed values'
            deviation ('median').
        params: where the flow starts; as in `fit`.
        batch_size, learning_rate, estimator, ema_decay: of each M step, as in `fit`.
        checkpoint_dir: where to keep a checkpoint a round, and to go on from when there are any, as in `fit`.
        progress: show a bar over rounds.
        metrics: where the numbers of every round go as they come, as in `fit`; a step is a round.

    Returns:
        ``(params, report)``.

    Raises:
        ValueError, TypeError: as `jaxflows.fit_incomplete`.
        OSError: a checkpoint that could not be written.

    Example:
        >>> params, report = fit_by_em(jax.random.key(0), flow, table, ~np.isnan(table))
    """
    if rounds < 1 or num_samples < 1 or draws < 1:
        raise ValueError(f"expected rounds >= 1, num_samples >= 1 and draws >= 1; got {rounds}, {num_samples}, {draws}")
    if isinstance(fill, Gaussian):
        if fill.event_shape != flow.event_shape:
            raise ValueError(f"expected a Gaussian of events {flow.event_shape} in fill; got {fill.event_shape}")
    elif fill not in FILLS:
        raise ValueError(f"expected a Gaussian or one of {FILLS} in fill; got {fill!r}")
    writer = metrics_writer(metrics)
    rows = incomplete_data(flow, data, observed, name="data", noisy=False)
    rows = rows._replace(values=rows.values.astype(jnp.result_type(float) if params is None else dtype_of(params)))
    k_fill, *keys = jax.random.split(key, rounds + 1)
    description = {
        "key": np.asarray(jax.random.key_data(key)).tolist(), "flow": flow.bijector.spec, **rows.digests("data"),
        "rounds": rounds, "epochs": epochs, "num_samples": num_samples, "draws": draws, "fit_steps": fit_steps,
        "fill": _description(fill), "batch_size": batch_size, "learning_rate": learning_rate, "ema_decay": ema_decay,
    }  # fmt: skip
    losses: list[float] = []
    others: dict[str, list[float]] = {"bound": [], "ess": [], "converged": []}
    done = Progress(0, 0.0, losses, [], 0, None, others)
    with contextlib.ExitStack() as stack:
        save = None
        if checkpoint_dir is not None:
            shapes = jax.eval_shape(flow.init, key) if params is None else params
            template = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            checkpoints = stack.enter_context(Checkpoints(checkpoint_dir, {**description, "arrays": structure(template)}))
            params, done = checkpoints.restore(template) or (params, done)
            save, losses, others = checkpoints.save, done.losses, done.others or others
        resumed_at, start = done.step, time.monotonic() - done.seconds
        bar = stack.enter_context(progress_bar(rounds, description="fit by EM", unit="round", show=progress))
        write = stack.enter_context(writing(writer, description, resumed_at))
        bar.update(resumed_at)
        for number in range(resumed_at, rounds):
            k_complete, k_resample, k_fit = jax.random.split(keys[number], 3)
            if number == 0:
                completed = _first_fill(k_fill, rows, fill, num_samples)
            else:
                result = complete(
                    k_complete, flow, params, rows.values, rows.observed, num_samples=draws, posterior=posterior,
                    fit_steps=fit_steps, progress=False,
                )  # fmt: skip
                if not result.info.done.all():
                    raise KeyboardInterrupt
                # a row none of whose draws was solved has no completion this round
                solved = np.isfinite(result.log_weights).any(axis=1)
                completed = result.resampled(k_resample, num_samples)[solved].reshape(-1, *flow.event_shape)
                # draws that were moved have neither
                others["bound"].append(known_mean(result.info.iw_bound) / flow.size)
                others["ess"].append(known_mean(result.info.ess) / draws)
                others["converged"].append(float(np.mean(result.info.converged)))
            params, report = fit(
                k_fit, flow, completed, params=params, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
                estimator=estimator, ema_decay=ema_decay, validation=0.0, progress=False,
            )  # fmt: skip
            losses.append(float(np.mean(report.losses[-(len(report.losses) // epochs) :])))
            done = Progress(number + 1, time.monotonic() - start, losses, [], 0, None, others)
            measured = {name: some[-1] for name, some in others.items() if some}
            write(done.step, {"loss": losses[-1], **measured, "seconds": done.seconds})
            if save is not None:
                save(params, done)
            bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
            bar.update(1)
    bound, ess, converged = (np.asarray(others[name]) for name in ("bound", "ess", "converged"))
    return params, EmReport(np.asarray(losses), bound, ess, converged, rows.empty, resumed_at)


def _description(fill: str | Gaussian) -> str:
    return digest(np.vstack([fill.mean, fill.factor])) if isinstance(fill, Gaussian) else fill


def _first_fill(key: jax.Array, rows: IncompleteData, fill: str | Gaussian, num_samples: int) -> np.ndarray:
    """(n * num_samples, *event): the rows completed without a flow."""
    shape = (num_samples, *rows.values.shape)
    if fill == "median":
        normal = np.asarray(jax.random.normal(key, shape, rows.values.dtype))
        filled = noisy_fill(rows.values, rows.observed, median_filling(rows.values, rows.observed), normal)
        return np.swapaxes(filled, 0, 1).reshape(-1, *shape[2:])
    # a start, and a step costs as many factorisations as there are masks
    gaussian = fill if isinstance(fill, Gaussian) else fit_gaussian_em(rows.values, rows.observed, tol=1e-2)[0]
    seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
    drawn = gaussian_conditional(gaussian, rows.values, rows.observed, num_samples=num_samples, seed=seed)
    return drawn.samples.reshape(-1, *shape[2:]).astype(rows.values.dtype)
