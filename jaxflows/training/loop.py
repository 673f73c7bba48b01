"""The loop of a training run, whatever is trained: options, schedule, steps, validations, checkpoints, progress.

What a run is made of is a jitted step ``(state, batch, number, position) -> (state, losses)`` and a function that gathers a
mini-batch on the host: the next one is gathered and sent while the device steps. Everything random is a function of a key and
the step number, so that a run taken up from a checkpoint gives the same numbers as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.memory import Fitting, fitting_program, memory_bytes
from jaxflows.precision import PRECISIONS, full_precision
from jaxflows.progress import progress_bar
from jaxflows.sharding import Devices, gathered, replicated, row_mesh, shared_out
from jaxflows.training.checkpoint import Checkpoints, Progress, structure
from jaxflows.training.metrics_writers import MetricsWriter, Write, metrics_writer, writing
from jaxflows.training.rows import BatchOrder
from jaxflows.training.step import TrainState

Schedule = Callable[[jax.Array], jax.Array]
Batch = Callable[[np.ndarray], Any]


class RunOptions(NamedTuple):
    """The options that every kind of training has; `jaxflows.fit` says what each means."""

    epochs: int
    batch_size: int
    optimizer: optax.GradientTransformation | None
    learning_rate: float | None
    warmup: float
    clip_norm: float
    ema_decay: float
    validate_every: int | None
    patience: int | None
    checkpoint_dir: str | os.PathLike[str] | None
    checkpoint_every: int | None
    max_seconds: float | None
    progress: bool
    metrics: str | os.PathLike[str] | MetricsWriter | None
    devices: Devices
    memory_limit: int | str | None = None
    precision: str | None = None

    def check(self) -> None:
        """Raise ValueError for options out of range or at odds."""
        for name in ("epochs", "batch_size", "patience", "validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1; got {value}")
        if self.optimizer is not None and self.learning_rate is not None:
            raise ValueError("expected an optimizer or a learning_rate; got both (an optimizer holds its own rate)")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"expected 0 <= ema_decay < 1; got {self.ema_decay}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"expected max_seconds > 0; got {self.max_seconds}")
        metrics_writer(self.metrics)
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(f"expected a precision of {', '.join(PRECISIONS)}; got {self.precision!r}")
        self.limit()
        self.mesh()

    def check_held_out(self, count: int) -> None:
        """Raise ValueError when patience has nothing to watch."""
        if self.patience is not None and not count:
            raise ValueError("expected validation rows for patience to watch; got none held out")

    def mesh(self) -> Mesh | None:
        """What the rows of a batch are shared out over; None for one device."""
        return row_mesh(self.devices, jax.devices())

    def limit(self) -> int | None:
        """The bytes of a device that a step may take; None for as many as it needs."""
        return None if self.memory_limit is None else memory_bytes(self.memory_limit)

    def order(self, key: jax.Array, size: int) -> BatchOrder:
        """The order of ``size`` rows."""
        return BatchOrder(key, size, min(self.batch_size, size))

    def transformation(self, order: BatchOrder) -> tuple[optax.GradientTransformation, Schedule | None]:
        """The optimizer, and for the default one its learning rate as a function of the position in the run."""
        if self.optimizer is not None:
            return self.optimizer, None
        total = self.epochs * order.steps_per_epoch
        peak = 1e-3 if self.learning_rate is None else self.learning_rate
        schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, peak, max(1, round(self.warmup * total)), total + 1)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), optax.scale_by_adam(b2=0.99)), schedule

    def description(self, key: jax.Array, order: BatchOrder) -> dict[str, Any]:
        """What a checkpoint has to share with a run that takes it up, in JSON values."""
        return {
            "key": np.asarray(jax.random.key_data(key)).tolist(), "epochs": self.epochs, "batch_size": self.batch_size,
            "learning_rate": self.learning_rate, "warmup": self.warmup, "clip_norm": self.clip_norm,
            "ema_decay": self.ema_decay, "validate_every": self.validate_every or order.steps_per_epoch,
            "patience": self.patience, "precision": self.precision,
        }  # fmt: skip

    def state(self, params: Params, optimizer: optax.GradientTransformation) -> TrainState:
        """The state before the first step. It is donated to the step: nothing in it is shared, least of all with the caller."""
        params = copy(params)
        moments = copy(optimizer.init(params))
        return TrainState(params, moments, copy(params), None if self.patience is None else copy(params))


class Ended(NamedTuple):
    """A run that has ended.

    Attributes:
        params: the average, or with patience the best average; inside the constraint once settled.
        done: what was done.
        resumed_at: the step a checkpoint was taken up from.
        parts: micro-batches of a step.
        bytes: memory of a step on one device; None where no limit was set.
        state: after the last step.
    """

    params: Params
    done: Progress
    resumed_at: int
    parts: int
    bytes: int | None
    state: Any


def run(
    options: RunOptions,
    order: BatchOrder,
    state: TrainState,
    step: Callable[[int], Any],
    batch: Batch,
    validate: Callable[[Params], float] | None,
    description: Mapping[str, Any],
    label: str,
) -> Ended:
    """Take up the newest checkpoint, if any, and step until the run ends.

    Args:
        options: checked.
        order: which rows each step sees.
        state: where a fresh run starts.
        step: ``micro-batches -> step``, from `jaxflows.training.step`. What the step returns beside the state is the loss, or a
            dictionary of numbers with the loss under "loss", all of which are kept.
        batch: ``row numbers -> mini-batch``.
        validate: ``averaged params -> loss`` on the rows held out; None when there are none.
        description: what the run is, in JSON values; a checkpoint of another is refused.
        label: of the progress bar.

    Raises:
        MemoryLimitError: a step on a single row takes more than the memory limit, before anything else is done.
    """
    done = Progress(0, 0.0, [], [], 0, None)
    with contextlib.ExitStack() as stack:
        # of several hosts one speaks
        first = jax.process_index() == 0
        mesh = options.mesh()
        state = replicated(state, mesh)
        chosen = _fitting_step(options, order, state, step, batch)
        save = None
        if options.checkpoint_dir is not None:
            about = {**description, "arrays": structure(state)}
            checkpoints = stack.enter_context(Checkpoints(options.checkpoint_dir, about))
            state, done = checkpoints.restore(state) or (state, done)
            save = checkpoints.save
        resumed_at = done.step
        bar = stack.enter_context(
            progress_bar(options.epochs * order.steps_per_epoch, description=label, show=options.progress and first)
        )
        writer = metrics_writer(options.metrics) if first else None
        write = stack.enter_context(writing(writer, description, resumed_at))
        state, done = _steps(options, order, state, done, chosen.program, batch, validate, save, write, bar)
    params = gathered(state.average if options.patience is None else state.best, mesh)
    return Ended(params, done, resumed_at, chosen.parts, chosen.bytes, state)


def _fitting_step(
    options: RunOptions, order: BatchOrder, state: TrainState, step: Callable[[int], Any], batch: Batch
) -> Fitting:
    """The step, within the memory limit where there is one."""
    limit, mesh = options.limit(), options.mesh()
    if limit is None:
        return Fitting(step(1), 1, None)
    first = shared_out(batch(order.epoch(0)[0]), mesh)
    return fitting_program(
        lambda parts: step(parts).lower(state, first, np.int32(0), np.float32(0)).compile(),
        -(-order.batch_size // (1 if mesh is None else mesh.size)), limit, "a training step",
    )  # fmt: skip


def _steps(
    options: RunOptions,
    order: BatchOrder,
    state: TrainState,
    done: Progress,
    step: Callable[..., tuple[TrainState, Any]],
    batch: Batch,
    validate: Callable[[Params], float] | None,
    save: Callable[[TrainState, Progress], None] | None,
    write: Write,
    bar: Any,
) -> tuple[TrainState, Progress]:
    """Step until the run ends, from wherever ``done`` is; returns the last state and progress."""
    number, stale, finished = done.step, done.stale, done.finished
    losses, validations = list(done.losses), list(done.validation)
    others = {name: list(values) for name, values in (done.others or {}).items()}
    mesh = options.mesh()
    total, max_seconds = options.epochs * order.steps_per_epoch, options.max_seconds
    validate_every = options.validate_every or order.steps_per_epoch
    checkpoint_every = options.checkpoint_every or order.steps_per_epoch
    start = time.monotonic() - done.seconds
    began = time.monotonic()
    bar.update(number)
    coming = (shared_out(batch(numbers), mesh) for numbers in order.starting_at(number))
    following = next(coming) if finished is None else None
    while finished is None:
        share = number / total
        if max_seconds is not None:
            share = max(share, (time.monotonic() - start) / max_seconds)
        position = np.float32(share * total)
        state, measured = step(state, following, np.int32(number), position)
        # gathered and sent while the device works: only the numbers below wait for it
        following = next(coming) if number + 1 < total else None
        measured = measured if isinstance(measured, dict) else {"loss": measured}
        numbers = {name: float(value) for name, value in measured.items()}
        losses.append(numbers["loss"])
        for name, value in numbers.items():
            if name != "loss":
                others.setdefault(name, []).append(value)
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the training loss is {losses[-1]} at step {number}: likely causes are a learning rate too high, or a "
                "noise function that leaves the flow's domain"
            )
        number += 1
        ended = time.monotonic()
        numbers |= {"rows_per_second": order.batch_size / max(ended - began, 1e-9), "seconds": ended - start}
        if number == total:
            finished = "epochs"
        elif max_seconds is not None and time.monotonic() - start >= max_seconds:
            finished = "max_seconds"
        if validate is not None and (finished or number % validate_every == 0):
            validations.append([number, validate(state.average)])
            if not np.isfinite(validations[-1][1]):
                raise FloatingPointError(f"the validation loss is {validations[-1][1]} after step {number}")
            numbers["validation_loss"] = validations[-1][1]
            best = validations[-1][1] <= min(value for _, value in validations)
            stale = 0 if best else stale + 1
            if options.patience is not None:
                state = state._replace(best=copy(state.average)) if best else state
                finished = finished or ("patience" if stale >= options.patience else None)
        done = Progress(number, time.monotonic() - start, losses, validations, stale, finished, others)
        # before the checkpoint, which counts the step as done
        write(number, numbers)
        if save is not None and (finished or number % checkpoint_every == 0):
            save(state, done)
        _show(bar, done, None if max_seconds is None else share)
        began = time.monotonic()
    return state, done


def mean_loss(
    options: RunOptions,
    loss: Callable[[int], Callable[..., jax.Array]],
    key: jax.Array,
    params: Params,
    batch: Batch,
    count: int,
    batch_size: int,
) -> Callable[[Params], float]:
    """``params -> mean loss over rows 0 to count``, noise and probes the same every time.

    Args:
        options: of the run: its memory limit holds here too.
        loss: ``micro-batches -> loss``.
        key: of noise and probes.
        params: any, of the right shapes.
        batch: ``row numbers -> mini-batch``.
        count: rows in all.
        batch_size: rows at once.

    Raises:
        MemoryLimitError: the loss of a single row takes more than the memory limit.
    """
    mesh, limit, at_once = options.mesh(), options.limit(), min(count, batch_size)

    def program(parts: int) -> Any:
        evaluate = loss(parts)

        @jax.jit
        @full_precision
        def one(params: Params, number: jax.Array, part: Any) -> jax.Array:
            return evaluate(jax.random.fold_in(key, number), params, part)

        return one

    parts, whole = 1, None
    if limit is not None:
        first = replicated(params, mesh), np.int32(0), shared_out(batch(np.arange(at_once)), mesh)
        whole, parts, _ = fitting_program(
            lambda parts: program(parts).lower(*first).compile(), -(-at_once // (1 if mesh is None else mesh.size)), limit,
            "a validation",
        )  # fmt: skip
    one = program(parts)

    def mean(params: Params) -> float:
        total = 0.0
        for number, start in enumerate(range(0, count, batch_size)):
            rows = np.arange(start, min(start + batch_size, count))
            run = one if whole is None or len(rows) < at_once else whole
            total += len(rows) * float(run(params, np.int32(number), shared_out(batch(rows), mesh)))
        return total / count

    return mean


def copy(params: Params) -> Params:
    """The same numbers in arrays of their own, of dtypes that are theirs for good: a step is compiled anew for weak ones."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf), copy=True), params)


def dtype_of(params: Params) -> Any:
    """The dtype that batches are computed in."""
    return jnp.result_type(*jax.tree.leaves(params))


def _show(bar: Any, done: Progress, share: float | None) -> None:
    recent = f"loss {np.mean(done.losses[-50:]):.4f}"
    if done.validation:
        recent += f", held out {done.validation[-1][1]:.4f}"
    bar.set_postfix_str(recent, refresh=False)
    if share:
        # the time left is that of the budget: the bar's end is the step at which the budget will be spent
        bar.total = max(done.step, round(done.step / share))
    bar.update(1)
