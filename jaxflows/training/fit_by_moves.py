"""Maximum likelihood on rows with holes whose completions move along with the flow that is trained on them.

Fisher's identity says that the gradient of what is wanted is a mean over completions,

    grad log p(y_observed) = E[ grad log p(y) ],   y_hidden ~ p(. | y_observed),

and every row keeps one, from step to step. When a row's turn comes its completion takes a few Hamiltonian moves that leave
p(y_hidden | y_observed) of the flow as it is by then as it is (`jaxflows.conditional.moves`), and the flow takes a step of Adam
on the completions of the batch. The flow changes little between two turns, so that the completions follow it: Gu and Kong
(1998), a stochastic approximation with Markov chains, the persistent chains of Younes (1999) and Tieleman (2008). Completions
begin as draws of a Gaussian, which also gives the moves their mass. No network, no constraint and no bound: what it takes is a
flow whose log p is cheap.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.call_record import digest_of
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.conditional.moves import first_log_step
from jaxflows.flows import Flow
from jaxflows.flows.entrywise import behind_entrywise
from jaxflows.log_det.estimators import Estimator, power_series
from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.metrics.gaussian_pairs import fit_gaussian_pairs
from jaxflows.metrics.nonparanormal import Nonparanormal, fit_nonparanormal
from jaxflows.networks.prediction_head import PredictionHead, check_head, fresh_head, head_loss, reads_events, weighted_moments
from jaxflows.precision import at_precision
from jaxflows.sharding import Devices, by_rows, gathered
from jaxflows.training.fit import initial_params
from jaxflows.training.fit_report import FitReport, fit_report
from jaxflows.training.gaussian_completions import check_rank, gaussian_completions, mass_moments, slots
from jaxflows.training.gaussian_start import can_start_gaussian, check_front, gaussian_start
from jaxflows.training.incomplete_data import IncompleteData, incomplete_data
from jaxflows.training.loop import RunOptions, dtype_of, run
from jaxflows.training.metrics_writers import MetricsWriter
from jaxflows.training.moving_rows import Chains, Turn, moved_batch
from jaxflows.training.rows import check_rows, digest
from jaxflows.training.step import Noise, TrainState, constrained_step, negative_log_likelihood, settle

# rows whose first completions start a flow, and over which the latents' moments are taken for the classifier
FIRST_ROWS = 1024


class MovesReport(NamedTuple):
    """How training went.

    Attributes:
        run: losses, steps and time. A loss is -mean log p(y) / d of the batch's completions, in nats per dimension, with the
            classifier's weighted cross-entropy added; it is no bound on anything, since completions are the flow's own.
        acceptance: (steps,) mean chance of a move to be accepted; NaN where completions did not move.
        step_size: (steps,) of the leapfrogs, in deviations of the Gaussian's conditional.
        cross_entropy: (steps,) of the classifier in nats a labelled row; empty without one.
        empty_rows: rows with nothing observed, which were skipped.
        labelled_rows: training rows with a label.
    """

    run: FitReport
    acceptance: np.ndarray
    step_size: np.ndarray
    cross_entropy: np.ndarray
    empty_rows: int
    labelled_rows: int


class _State(NamedTuple):
    """What changes from step to step."""

    train: TrainState
    chains: Chains

    @property
    def average(self) -> Params:
        """The averaged parameters."""
        return self.train.average

    @property
    def best(self) -> None:
        """There is no early stop."""
        return None


def fit_by_moves(
    key: jax.Array,
    flow: Flow,
    data: Any,
    observed: Any,
    *,
    labels: Any = None,
    head_hidden: Sequence[int] = (),
    head_weight: float = 1e-3,
    gaussian: Gaussian | Nonparanormal | None = None,
    rank: int | None = None,
    completions: Any = None,
    moves: int = 1,
    move_every: int = 1,
    params: Params | None = None,
    noise: Noise | None = None,
    estimator: Estimator | None = None,
    epochs: int = 50,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    warmup: float = 0.02,
    clip_norm: float = 1.0,
    ema_decay: float = 0.999,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    metrics: str | os.PathLike[str] | MetricsWriter | None = None,
    devices: Devices = None,
    memory_limit: int | str | None = None,
    precision: str | None = None,
) -> tuple[IncompleteModel, MovesReport]:
    """Train a flow on rows with holes, each with a completion of its own that follows the flow by Hamiltonian moves.

    For flows whose log p is one pass, above all couplings: `jaxflows.flows.whitened_image`, `realnvp`, `neural_spline`. Others
    take it too, at an exact log-determinant a gradient.

    Args:
        key: of the initial parameters, the order of rows, noise, first completions and moves.
        flow: the model, `jaxflows.flows`.
        data: (n, *event_shape), n >= 2; anything where hidden, NaN too. Integers need ``noise``.
        observed: (n, *event_shape) boolean, True where observed. A row with nothing observed is skipped and counted.
        labels: (n,) integers from 0, or -1 where unknown: train a classifier on the completions or their latents beside the
            flow, as `jaxflows.fit_incomplete` does.
        head_hidden: of the classifier, as in `jaxflows.fit_incomplete`. Of hidden layers no gradient reaches the flow.
        head_weight: of its cross-entropy in nats a row, beside log p in nats a dimension. 1 / d weighs a label as what it
            tells, as part of the event.
        gaussian: of the events, noise included: completions begin as its draws, and moves have its conditional precision for
            their mass. It decides what a run costs, not where it ends. None for `jaxflows.metrics.fit_gaussian_pairs`, or
            `jaxflows.metrics.fit_nonparanormal` where the flow begins with an `elementwise_spline`: moves then take place
            behind that (`jaxflows.flows.entrywise`), and so one of them must be given. That layer stays as it starts: S of
            greatest pseudo-likelihood is the one that training finds, and without its gradient a step takes two thirds of the
            time.
        rank: how many leading directions of the Gaussian count in first completions and mass, the others being alike, where
            that is less than is hidden and less than is observed: a turn then factorises ``rank`` rows. None for all.
        completions: (n, *event_shape) where the completion of each row begins, ``noise`` included, from any imputer; what is
            observed in a row is not looked at. The nearer to the truth, the fewer turns are needed. None for draws of
            ``gaussian``; where that is None too and the flow begins with one `elementwise_spline` for all entries, for draws of
            the Gaussian of the events with the levels of observed entries (`jaxflows.gaussian_completions`, ``matched``).
        moves: of each completion in its row's turn.
        move_every: completions move in the last of so many epochs. In the others the flow steps on them as they are, at a
            fraction of the work: more steps for the same time, on completions that are older.
        params: where the flow starts; None for the Gaussian (`jaxflows.gaussian_start`) where the flow can be one, else for
            ``flow.init`` followed by data-dependent initialisation on first completions.
        noise: ``(key, batch) -> batch``, as in `jaxflows.fit`, acting on each entry for itself.
        estimator: of log-determinants in the loss, as in `jaxflows.fit`; what is explicit is exact whatever it is.
        epochs, batch_size, optimizer, learning_rate, warmup, clip_norm, ema_decay, checkpoint_dir, checkpoint_every,
        max_seconds, progress, metrics, devices, memory_limit: as in `jaxflows.fit`. In an epoch every row has one turn: it
            takes several until the completions have left the Gaussian. A checkpoint holds all completions, and so does every
            device.
        precision: as in `jaxflows.fit`, of the loss; moves are in full precision.

    Returns:
        ``(model, report)``; the model has no inference network. `jaxflows.complete` with its defaults completes other rows.

    Raises:
        ValueError, TypeError: arguments or data that do not fit, before anything is compiled: among them a column that was
            never observed and, without ``noise``, one with a single value.
        FloatingPointError: a training loss that is not finite.

    Cost a step and row: one gradient of log p for the parameters, and where completions move 1 + 3 ``moves`` for each, and a
    factorisation of K x K, K being the least of ``rank``, of how many entries are hidden and of how many are observed, at most.

    Example:
        >>> flow = jaxflows.flows.whitened_image(event_shape=(28, 28, 1), hidden=16, dense=128, whitening="full")
        >>> model, report = fit_by_moves(jax.random.key(0), flow, digits, observed, noise=noise, epochs=10, batch_size=64)
        >>> filled = jaxflows.complete(key, flow, model.params, rows, seen)
    """
    options = RunOptions(
        epochs, batch_size, optimizer, learning_rate, warmup, clip_norm, ema_decay, None, None, checkpoint_dir,
        checkpoint_every, max_seconds, progress, metrics, devices, memory_limit, precision,
    )  # fmt: skip
    options.check()
    if moves < 1 or move_every < 1:
        raise ValueError(f"expected moves >= 1 and move_every >= 1; got {moves}, {move_every}")
    if not (np.isfinite(head_weight) and head_weight >= 0):
        raise ValueError(f"expected a finite head_weight >= 0; got {head_weight}")
    check_head(flow.event_shape, head_hidden, labels is not None)
    check_rank(rank, flow.size)
    behind = behind_entrywise(flow)
    if gaussian is not None:
        check_front(behind, gaussian)
    if gaussian is not None and tuple(gaussian.event_shape) != flow.event_shape:
        raise ValueError(f"expected a Gaussian of events {flow.event_shape}; got {tuple(gaussian.event_shape)}")
    rows = incomplete_data(flow, data, observed, name="data", noisy=noise is not None, labels=labels)
    first = None if completions is None else _checked_completions(flow, completions, data, rows)
    classes = int(rows.labels.max(initial=-1)) + 1
    if labels is not None and classes == 0:
        raise ValueError("expected a label for some row with something observed; got none")
    k_init, k_order, k_step, k_move, k_noise = jax.random.split(key, 5)
    dtype = jnp.result_type(float) if params is None else dtype_of(params)
    if gaussian is None:
        told = _noisy(noise, k_noise, jnp.asarray(rows.values, dtype))
        if behind is None:
            gaussian = fit_gaussian_pairs(told, rows.observed)
        else:
            gaussian = fit_nonparanormal(told, rows.observed, front=behind.front)
            if first is None and behind.alike:
                # draws of that Gaussian are too spread, and what a flow learns of them moves undo slowly
                first = gaussian_completions(
                    jax.random.fold_in(k_init, 2), fit_gaussian_pairs(told, rows.observed), told, rows.observed, rank=rank,
                    matched=True, progress=progress,
                )  # fmt: skip
    bounds = slots(rows.observed)
    inner = gaussian.gaussian if isinstance(gaussian, Nonparanormal) else gaussian
    moments = mass_moments(inner, rank, bounds, dtype)
    batch = rows.batch(dtype)

    order = options.order(k_order, len(rows.values))
    transformation, schedule = options.transformation(order)
    if params is None and can_start_gaussian(flow):
        params = gaussian_start(k_init, flow, gaussian)
    elif params is None:
        some = order.epoch(0).reshape(-1)[:FIRST_ROWS]
        k_draw, k_rows = jax.random.split(k_init)
        began = _noisy(noise, k_rows, batch(some).rows) if first is None else first[some]
        if first is None:
            began = gaussian_completions(k_draw, gaussian, began, rows.observed[some], rank=rank, progress=False)
        if behind is None:
            params = initial_params(k_init, flow, began, None)
        else:
            assert isinstance(gaussian, Nonparanormal)
            params = (gaussian.params, *initial_params(k_init, behind.flow, gaussian.to_gaussian(began), None))
    start: dict[str, Any] = {"flow": params}
    if labels is not None:
        start["head"] = fresh_head(jax.random.fold_in(k_init, 1), flow.event_shape, classes, head_hidden)
    mesh = options.mesh()
    chains = Chains(
        jnp.zeros((len(rows.values), *flow.event_shape), dtype) if first is None else jnp.array(first, dtype),
        jnp.full(len(rows.values), first is not None),
        first_log_step(jnp.asarray(np.sum(~rows.observed) / len(rows.observed))).astype(dtype),
    )
    loss = _loss(flow, power_series(terms=8) if estimator is None else estimator, head_weight, mesh)

    def step_of(parts: int) -> Callable[..., tuple[_State, dict[str, jax.Array]]]:
        update = constrained_step(
            lambda p: {**p, "flow": flow.bijector.constrain(p["flow"])}, at_precision(precision, loss(parts)), transformation,
            schedule, k_step, ema_decay,
        )  # fmt: skip
        moved = moved_batch(flow, moments, bounds, moves, noise, mesh, parts)

        def step(state: _State, turn: Turn, number: jax.Array, position: jax.Array) -> tuple[_State, dict[str, jax.Array]]:
            params = flow.bijector.constrain(state.train.raw["flow"])
            now = None if move_every == 1 else (number // order.steps_per_epoch + 1) % move_every == 0
            chains, completions, acceptance = moved(jax.random.fold_in(k_move, number), params, state.chains, turn, now)
            train, losses = update(state.train, (completions, turn.batch.labels), number, position)
            measured = {"acceptance": acceptance, "step_size": jnp.exp(state.chains.log_step)}
            return _State(train, chains), losses | measured

        return jax.jit(step, donate_argnums=0)

    description = {
        "flow": flow.bijector.spec, "event_shape": list(flow.event_shape), **rows.digests("data"), "moves": moves,
        "move_every": move_every, "rank": rank,
        "head_weight": head_weight, "head_hidden": list(head_hidden),
        "completions": None if first is None else digest(first),
        "gaussian": digest(np.vstack([inner.mean.reshape(1, -1), inner.factor])),
        "entries": digest_of(gaussian.params) if isinstance(gaussian, Nonparanormal) else None,
        **options.description(key, order),
    }  # fmt: skip
    state: Any = _State(options.state(start, transformation), chains)
    ended = run(
        options, order, state, step_of, lambda numbers: Turn(jnp.asarray(numbers), batch(numbers)), None, description,
        "fit by moves",
    )  # fmt: skip
    settled = settle(flow, ended.params["flow"])
    head = None
    if labels is not None:
        chains = gathered(ended.state.chains, mesh)
        head = _head(flow, settled, ended.params["head"], chains.y[np.flatnonzero(chains.begun)[:FIRST_ROWS]])
    measured = ended.done.others or {}
    report = MovesReport(
        run=fit_report(ended, float(flow.bijector.lipschitz(settled))),
        acceptance=np.asarray(measured["acceptance"]),
        step_size=np.asarray(measured["step_size"]),
        cross_entropy=np.asarray(measured.get("cross_entropy", [])),
        empty_rows=rows.empty,
        labelled_rows=int(np.sum(rows.labels >= 0)),
    )
    return IncompleteModel(settled, None, head), report


def _noisy(noise: Noise | None, key: jax.Array, rows: jax.Array) -> np.ndarray:
    return np.asarray(rows if noise is None else noise(key, rows))


def _checked_completions(flow: Flow, completions: Any, data: Any, rows: IncompleteData) -> np.ndarray:
    """Of the rows that are trained on; ValueError or TypeError for others than finite events."""
    completions = check_rows(flow, completions, "completions", noisy=False)
    if len(completions) != len(data):
        raise ValueError(f"expected as many completions as rows of data, {len(data)}; got {len(completions)}")
    return completions[rows.numbers]


def _loss(
    flow: Flow, estimator: Estimator, head_weight: float, mesh: Mesh | None
) -> Callable[[int], Callable[[jax.Array, Any, Any], dict[str, jax.Array]]]:
    """``micro-batches -> (key, params, (completions, labels)) -> losses``."""
    behind = behind_entrywise(flow)

    def held(params: Params) -> Params:
        return params if behind is None else (jax.lax.stop_gradient(params[0]), *params[1:])

    def encode(params: Params, rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda y: flow.bijector.transform(params, y).reshape(-1))(rows)

    def with_parts(parts: int) -> Callable[[jax.Array, Any, Any], dict[str, jax.Array]]:
        likelihood = negative_log_likelihood(flow, estimator, None, mesh, parts)
        latents = by_rows(encode, mesh, parts)

        def loss(key: jax.Array, params: Any, batch: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
            completions, labels = batch
            losses = {"loss": likelihood(key, held(params["flow"]), completions)}
            if "head" in params:
                t = completions if reads_events(params["head"]) else latents(held(params["flow"]), completions)
                entropy = head_loss(params["head"], t, jnp.ones(len(t), bool), labels)
                losses |= {"loss": losses["loss"] + head_weight * entropy, "cross_entropy": entropy}
            return losses

        return loss

    return with_parts


def _head(flow: Flow, params: Params, head: Params, completions: jax.Array) -> PredictionHead:
    """The classifier with the moments of the completions or their latents."""
    encode = lambda y: flow.encode(params, y).reshape(-1)  # noqa: E731
    t = completions if reads_events(head) else jax.lax.map(encode, completions, batch_size=64)
    return PredictionHead(head, *weighted_moments(t, jnp.ones(len(t), t.dtype), head))
