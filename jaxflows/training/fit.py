"""Maximum likelihood on complete data."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.log_det.estimators import Estimator, power_series
from jaxflows.precision import at_precision
from jaxflows.sharding import Devices
from jaxflows.training.fit_report import FitReport, fit_report
from jaxflows.training.loop import Batch, RunOptions, dtype_of, mean_loss, run
from jaxflows.training.metrics_writers import MetricsWriter
from jaxflows.training.rows import check_rows, digest, hold_out
from jaxflows.training.step import Noise, negative_log_likelihood, settle, training_step


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
    metrics: str | os.PathLike[str] | MetricsWriter | None = None,
    devices: Devices = None,
    memory_limit: int | str | None = None,
    precision: str | None = None,
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
        data: (n, *event_shape), n >= 1, finite. Integers need ``noise``; float16 is promoted to float32. A `numpy.memmap` stays
            on its disk, and may be larger than memory: batches are read as they are needed, the next while a step runs.
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
        metrics: where the numbers of every step go as they come: the path of a file of JSON lines, or a writer of
            `jaxflows.training.metrics_writers`. A run that goes on from a checkpoint goes on in the same file, no step twice.
        devices: over which the rows of each batch are shared out, parameters being copied to all; None for all there are,
            those of other hosts too once ``jax.distributed`` is initialised (then every process makes the same call). Losses
            are the same on any number of them, up to the order of sums. A batch that does not divide is filled up.
        memory_limit: bytes of each device that a step, and a validation, may take, as a number or as "8 GiB"; None for as many
            as they need. Where the whole batch needs more it is cut into the fewest equal micro-batches that fit, taken one
            after another, their gradients added up: noise and probes are those of the whole batch, and losses the same up to
            the order of sums. Each cut that is tried is compiled, about four; ``report.micro_batches`` says which was taken.
            The batch to come, which is sent while a step runs, is not counted.
        precision: of the products in a step, outside of solves: 'float32'; 'tensorfloat32', to which GPUs round the factors and
            which CPUs take for float32; or 'bfloat16', to which TPUs do (GPUs round to TensorFloat-32 here too). None for what
            JAX is set to. Parameters, the optimizer's memory, the projection into the constraint and validations are in full
            precision whatever it is.

    Returns:
        ``(params, report)``.

    Raises:
        ValueError, TypeError: arguments or data that do not fit, before anything is compiled.
        MemoryLimitError: a step on a single row takes more than the limit, which is known before any step.
        FloatingPointError: a training loss that is not finite.

    Cost a step: ``batch_size * blocks`` times (2 + terms) block VJPs and one gradient of a JVP; memory does not grow
    with terms.

    Example:
        >>> flow = jaxflows.flows.residual(event_shape=(64,), hidden=128)
        >>> params, report = fit(jax.random.key(0), flow, data, epochs=20)
    """
    options = RunOptions(
        epochs, batch_size, optimizer, learning_rate, warmup, clip_norm, ema_decay, validate_every, patience, checkpoint_dir,
        checkpoint_every, max_seconds, progress, metrics, devices, memory_limit, precision,
    )  # fmt: skip
    options.check()
    rows = check_rows(flow, data, "data", noisy=noise is not None)
    k_init, k_split, k_order, k_step, k_validation = jax.random.split(key, 5)
    if np.ndim(validation) == 0:
        # by their numbers: rows on a disk stay there
        held_out = rows
        numbers, others = hold_out(k_split, np.arange(len(rows)), float(validation))
    else:
        held_out = check_rows(flow, validation, "validation", noisy=noise is not None)
        numbers, others = np.arange(len(rows)), np.arange(len(held_out))
    options.check_held_out(len(others))

    order = options.order(k_order, len(numbers))
    optimizer, schedule = options.transformation(order)
    params = initial_params(k_init, flow, rows[numbers[order.epoch(0)[0]]], noise) if params is None else params
    state = options.state(params, optimizer)
    estimator = power_series(terms=8) if estimator is None else estimator
    mesh = options.mesh()
    loss = functools.partial(negative_log_likelihood, flow, estimator, noise, mesh)
    held_out_loss = functools.partial(negative_log_likelihood, flow, validation_estimator or estimator, noise, mesh)

    def batch_of(some: np.ndarray, numbers: np.ndarray) -> Batch:
        return lambda positions: jnp.asarray(some[numbers[positions]], dtype_of(params))

    description = {
        "flow": flow.bijector.spec, "event_shape": list(flow.event_shape), "data": digest(rows),
        "held_out": digest(others if held_out is rows else held_out), **options.description(key, order),
    }  # fmt: skip
    validate = None
    if len(others):
        validate = mean_loss(
            options, held_out_loss, k_validation, params, batch_of(held_out, others), len(others), order.batch_size
        )

    def step(parts: int) -> Any:
        return training_step(flow, at_precision(precision, loss(parts)), optimizer, schedule, k_step, ema_decay)

    ended = run(options, order, state, step, batch_of(rows, numbers), validate, description, "fit")
    chosen = settle(flow, ended.params)
    return chosen, fit_report(ended, float(flow.bijector.lipschitz(chosen)))


def initial_params(key: jax.Array, flow: Flow, batch: np.ndarray, noise: Noise | None) -> Params:
    """``flow.init`` followed by data-dependent initialisation on a batch, (b, *event_shape)."""
    k_params, k_noise = jax.random.split(key)
    params = _fresh(flow, k_params)
    start = jnp.asarray(batch, dtype_of(params))
    return _fitted(flow, params, start if noise is None else noise(k_noise, start))


# compiled once for each flow: run step by step they compile every operation by itself
@functools.partial(jax.jit, static_argnums=0)
def _fresh(flow: Flow, key: jax.Array) -> Params:
    return flow.init(key)


@functools.partial(jax.jit, static_argnums=0)
def _fitted(flow: Flow, params: Params, batch: jax.Array) -> Params:
    return flow.bijector.fit_to_data(params, batch)
