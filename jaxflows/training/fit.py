"""Maximum likelihood on complete data."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.log_det.estimators import Estimator, power_series
from jaxflows.progress import progress_bar
from jaxflows.training.checkpoint import Checkpoints, Progress, structure
from jaxflows.training.rows import BatchOrder, check_rows, digest, hold_out
from jaxflows.training.step import Noise, TrainState, negative_log_likelihood, settle, training_step


class FitReport(NamedTuple):
    """What a training run did. Losses are in nats per dimension, -mean log p(y) / d, estimated.

    Attributes:
        losses: (steps,) the loss of every step on its mini-batch, before the step.
        validation_steps: (validations,) steps done when the average was validated.
        validation_losses: (validations,) loss of the averaged parameters on the rows held out, always with the same
            noise and probes.
        steps: steps done, those before a resume included.
        seconds: time spent in steps and validations, compilation included, over all processes the run has had.
        lipschitz: certified Lipschitz bound of the returned parameters.
        stopped: why it ended: 'epochs', 'patience' or 'max_seconds'.
        resumed_at: the step a checkpoint was taken up from; 0 for a fresh run.
    """

    losses: np.ndarray
    validation_steps: np.ndarray
    validation_losses: np.ndarray
    steps: int
    seconds: float
    lipschitz: float
    stopped: str
    resumed_at: int


def fit(
    key: jax.Array,
    flow: Flow,
    data: Any,
    *,
    params: Params | None = None,
    epochs: int = 50,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    warmup: float = 0.02,
    clip_norm: float = 1.0,
    noise: Noise | None = None,
    estimator: Estimator | None = None,
    ema_decay: float = 0.999,
    validation: float | Any = 0.1,
    validation_estimator: Estimator | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
) -> tuple[Params, FitReport]:
    """Train a flow by maximum likelihood on rows without holes.

        minimise  -1/d E_y log p(y),   log p(y) = log N(g(y); 0, I) + log|det dg/dy|

    by mini-batches, the log-determinants estimated, every step inside the Lipschitz constraint; the parameters returned
    are the exponential moving average, settled so that the certified bound holds.

    Everything random is a function of ``key`` and the step number. With the same arguments the losses are the same, and
    with ``checkpoint_dir`` a run that was killed and started again gives, on a CPU, the same losses bit for bit as one
    that was not, unless ``max_seconds`` is set.

    Args:
        key: of the initial parameters, the split, the order of rows, noise and probes.
        flow: the model, `jaxflows.flows`.
        data: (n, *event_shape), n >= 1, finite. Integers need ``noise``; float16 is promoted to float32.
        params: where to start; None for ``flow.init`` followed by data-dependent initialisation on the first batch.
        epochs: passes over the data; the learning rate reaches 0 at the end of the last.
        batch_size: rows a step; all of them when there are fewer.
        optimizer: an optax transformation with its own learning rate; None for Adam with clipped gradients, linear
            warm-up and cosine decay.
        learning_rate: peak rate of the default optimizer, 1e-3 when None; not with ``optimizer``.
        warmup: share of the run the default optimizer's rate takes to rise from 0.
        clip_norm: global norm the default optimizer clips gradients to.
        noise: ``(key, batch) -> batch``, applied to every training and validation batch anew: Gaussian noise,
            dequantisation, scaling. None adds nothing.
        estimator: of the log-determinants, `jaxflows.log_det.estimators`; None for ``power_series(terms=8)``.
        ema_decay: of the moving average, a step.
        validation: share of the rows to hold out (rounded down), or an array (m, *event_shape); 0 for none.
        validation_estimator: None for ``estimator``; a longer series sees what training's truncation hides.
        validate_every: steps between validations; None for an epoch.
        patience: stop after this many validations without a new best, and return the best average; None never does.
        checkpoint_dir: where to keep checkpoints, and to resume from when there are any.
        checkpoint_every: steps between checkpoints; None for an epoch. One is always written at the end.
        max_seconds: stop after this time, earlier processes of a resumed run included. The learning rate then follows
            whichever is further on, the share of steps or of time, so that it still ends at 0; such a run cannot be
            repeated bit for bit.
        progress: whether to show a bar with rate and time left.

    Returns:
        ``(params, report)``.

    Raises:
        ValueError, TypeError: arguments or data that do not fit, before anything is compiled.
        FloatingPointError: a training loss that is not finite.

    Cost a step: ``batch_size * blocks`` times (2 + terms) block VJPs and one gradient of a JVP; memory does not grow
    with terms.

    Example:
        >>> flow = jaxflows.flows.residual(event_shape=(64,), hidden=128)
        >>> params, report = fit(jax.random.key(0), flow, data, epochs=20)
    """
    counts = {
        "epochs": epochs, "batch_size": batch_size, "patience": patience, "validate_every": validate_every,
        "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    _check_options(counts, optimizer, learning_rate, ema_decay, max_seconds)
    rows = check_rows(flow, data, "data", noisy=noise is not None)
    k_init, k_split, k_order, k_step, k_validation = jax.random.split(key, 5)
    if np.ndim(validation) == 0:
        rows, held_out = hold_out(k_split, rows, float(validation))
    else:
        held_out = check_rows(flow, validation, "validation", noisy=noise is not None)
    if patience is not None and not len(held_out):
        raise ValueError("expected validation rows for patience to watch; got none held out")

    order = BatchOrder(k_order, len(rows), min(batch_size, len(rows)))
    total = epochs * order.steps_per_epoch
    schedule = None
    if optimizer is None:
        peak = 1e-3 if learning_rate is None else learning_rate
        schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, peak, max(1, round(warmup * total)), total + 1)
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optax.scale_by_adam(b2=0.99))

    # the step donates its state: nothing in it may be shared, least of all with the caller
    params = _copy(_initial(k_init, flow, rows[order.epoch(0)[0]], noise) if params is None else params)
    state = TrainState(params, optimizer.init(params), _copy(params), None if patience is None else _copy(params))
    estimator = power_series(terms=8) if estimator is None else estimator
    loss = negative_log_likelihood(flow, estimator, noise)
    held_out_loss = negative_log_likelihood(flow, validation_estimator or estimator, noise)
    plan = _Plan(
        rows, order, total, training_step(flow, loss, optimizer, schedule, k_step, ema_decay),
        _validation(held_out_loss, k_validation, held_out, order.batch_size) if len(held_out) else None,
        validate_every or order.steps_per_epoch, checkpoint_every or order.steps_per_epoch, patience, max_seconds,
    )  # fmt: skip

    done = Progress(0, 0.0, [], [], 0, None)
    with contextlib.ExitStack() as stack:
        save = None
        if checkpoint_dir is not None:
            description = {
                "flow": flow.bijector.spec, "event_shape": list(flow.event_shape), "data": digest(rows),
                "held_out": digest(held_out), "key": np.asarray(jax.random.key_data(key)).tolist(), "epochs": epochs,
                "batch_size": batch_size, "learning_rate": learning_rate, "warmup": warmup, "clip_norm": clip_norm,
                "ema_decay": ema_decay, "validate_every": plan.validate_every, "patience": patience,
                "arrays": structure(state),
            }  # fmt: skip
            checkpoints = stack.enter_context(Checkpoints(checkpoint_dir, description))
            state, done = checkpoints.restore(state) or (state, done)
            save = checkpoints.save
        resumed_at = done.step
        bar = stack.enter_context(progress_bar(total, description="fit", show=progress))
        state, done = _run(plan, state, done, save, bar)

    chosen = settle(flow, state.average if patience is None else state.best)
    report = FitReport(
        losses=np.asarray(done.losses),
        validation_steps=np.asarray([number for number, _ in done.validation], int),
        validation_losses=np.asarray([value for _, value in done.validation]),
        steps=done.step,
        seconds=done.seconds,
        lipschitz=float(flow.bijector.lipschitz(chosen)),
        stopped=str(done.finished),
        resumed_at=resumed_at,
    )
    return chosen, report


class _Plan(NamedTuple):
    rows: np.ndarray
    order: BatchOrder
    total: int
    step: Callable[..., tuple[TrainState, jax.Array]]
    validate: Callable[[Params], float] | None
    validate_every: int
    checkpoint_every: int
    patience: int | None
    max_seconds: float | None


def _run(
    plan: _Plan, state: TrainState, done: Progress, save: Callable[[TrainState, Progress], None] | None, bar: Any
) -> tuple[TrainState, Progress]:
    """Step until the plan ends, from wherever ``done`` is; returns the last state and progress."""
    number, stale, finished = done.step, done.stale, done.finished
    losses, validations = list(done.losses), list(done.validation)
    start = time.monotonic() - done.seconds
    dtype = _dtype(state.raw)
    epoch, batches = -1, np.empty((0, 0), int)
    bar.update(number)
    while finished is None:
        now, within = divmod(number, plan.order.steps_per_epoch)
        if now != epoch:
            epoch, batches = now, plan.order.epoch(now)
        share = number / plan.total
        if plan.max_seconds is not None:
            share = max(share, (time.monotonic() - start) / plan.max_seconds)
        batch = jnp.asarray(plan.rows[batches[within]], dtype)
        position = jnp.asarray(share * plan.total, jnp.float32)
        state, value = plan.step(state, batch, jnp.asarray(number, jnp.int32), position)
        losses.append(float(value))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the training loss is {losses[-1]} at step {number}: likely causes are a learning rate too high, or a "
                "noise function that leaves the flow's domain"
            )
        number += 1
        if number == plan.total:
            finished = "epochs"
        elif plan.max_seconds is not None and time.monotonic() - start >= plan.max_seconds:
            finished = "max_seconds"
        if plan.validate is not None and (finished or number % plan.validate_every == 0):
            validations.append([number, plan.validate(state.average)])
            if not np.isfinite(validations[-1][1]):
                raise FloatingPointError(f"the validation loss is {validations[-1][1]} after step {number}")
            best = validations[-1][1] <= min(value for _, value in validations)
            stale = 0 if best else stale + 1
            if plan.patience is not None:
                state = state._replace(best=_copy(state.average)) if best else state
                finished = finished or ("patience" if stale >= plan.patience else None)
        done = Progress(number, time.monotonic() - start, losses, validations, stale, finished)
        if save is not None and (finished or number % plan.checkpoint_every == 0):
            save(state, done)
        _show(bar, done, None if plan.max_seconds is None else share)
    return state, done


def _check_options(
    counts: dict[str, int | None],
    optimizer: optax.GradientTransformation | None,
    learning_rate: float | None,
    ema_decay: float,
    max_seconds: float | None,
) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"expected {name} >= 1; got {value}")
    if optimizer is not None and learning_rate is not None:
        raise ValueError("expected an optimizer or a learning_rate; got both (an optimizer holds its own rate)")
    if not 0.0 <= ema_decay < 1.0:
        raise ValueError(f"expected 0 <= ema_decay < 1; got {ema_decay}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"expected max_seconds > 0; got {max_seconds}")


def _copy(params: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)


def _dtype(params: Params) -> Any:
    return jnp.result_type(*jax.tree.leaves(params))


def _initial(key: jax.Array, flow: Flow, batch: np.ndarray, noise: Noise | None) -> Params:
    k_params, k_noise = jax.random.split(key)
    params = flow.init(k_params)
    start = jnp.asarray(batch, _dtype(params))
    return flow.bijector.fit_to_data(params, start if noise is None else noise(k_noise, start))


def _validation(loss: Callable[..., jax.Array], key: jax.Array, rows: np.ndarray, batch_size: int) -> Callable[[Params], float]:
    """``params -> mean loss over rows``, noise and probes the same every time."""

    @jax.jit
    def one(params: Params, number: jax.Array, batch: jax.Array) -> jax.Array:
        return loss(jax.random.fold_in(key, number), params, batch)

    def mean(params: Params) -> float:
        total = 0.0
        for number, start in enumerate(range(0, len(rows), batch_size)):
            part = jnp.asarray(rows[start : start + batch_size], _dtype(params))
            total += len(part) * float(one(params, jnp.asarray(number, jnp.int32), part))
        return total / len(rows)

    return mean


def _show(bar: Any, done: Progress, share: float | None) -> None:
    recent = f"loss {np.mean(done.losses[-50:]):.4f}"
    if done.validation:
        recent += f", held out {done.validation[-1][1]:.4f}"
    bar.set_postfix_str(recent, refresh=False)
    if share:
        # the time left is that of the budget: the bar's end is the step at which the budget will be spent
        bar.total = max(done.step, round(done.step / share))
    bar.update(1)
