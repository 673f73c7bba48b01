"""Training of `jaxflows.conditional.row_classifier` on rows with holes.

Every step hides some more of each row, by another share for each: the classifier sees a row through many masks, and learns of
rows with fewer entries than any has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows.conditional.call_record import digest_of
from jaxflows.conditional.row_classifier import (
    AT_ONCE,
    RowClassifier,
    checked_rows,
    inputs,
    inputs_of,
    inputs_shape,
)
from jaxflows.data.incomplete_rows import check_columns
from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.metrics.gaussian_pairs import fit_gaussian_pairs
from jaxflows.networks.prediction_head import PredictionHead, check_head, fresh_head, head_loss, weighted_moments
from jaxflows.precision import full_precision
from jaxflows.training.gaussian_completions import mass_moments
from jaxflows.training.incomplete_data import checked_labels
from jaxflows.training.loop import RunOptions, run
from jaxflows.training.metrics_writers import MetricsWriter
from jaxflows.training.rows import digest
from jaxflows.training.step import constrained_step

# those whose inputs' moments the classifier keeps
_FIRST_ROWS = 1024


class ClassifierReport(NamedTuple):
    """How training went.

    Attributes:
        losses: (steps,) cross-entropy of the mini-batch, of rows that were thinned, in nats a row.
        seconds: of the steps, compilation included.
        stopped: why it ended: 'epochs' or 'max_seconds'.
        resumed_at: the step a checkpoint was taken up from; 0 for a fresh run.
        rows: with a label and something observed, which were trained on.
    """

    losses: np.ndarray
    seconds: float
    stopped: str
    resumed_at: int
    rows: int


def fit_classifier(
    key: jax.Array,
    rows: Any,
    observed: Any,
    labels: Any,
    *,
    hidden: Sequence[int] = (32, 64, 128),
    gaussian: Gaussian | None = None,
    rank: int = 64,
    thinning: float = 0.3,
    dropout: float = 0.5,
    epochs: int = 10,
    batch_size: int = 128,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    ema_decay: float = 0.99,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    metrics: str | os.PathLike[str] | MetricsWriter | None = None,
) -> tuple[RowClassifier, ClassifierReport]:
    """Train a classifier of rows with holes on rows with holes; no flow takes part.

    Where little is observed it finds more classes than a classifier of a flow's completions
    (`jaxflows.fit_by_moves`, `jaxflows.fit_incomplete`): docs/incomplete.md has both beside each other.

    Args:
        key: of the initial parameters, the order of rows and their thinning.
        rows: (n, *event), finite where observed; anything where hidden.
        observed: (n, *event) boolean, True where observed.
        labels: (n,) integers from 0, or -1 where unknown: such rows count for the Gaussian alone.
        hidden: units of dense layers for vectors, channels of 3x3 convolutions of stride 2 for images; none for a linear map.
        gaussian: of the rows; None for `jaxflows.metrics.fit_gaussian_pairs` of them, those without a label too.
        rank: how many leading directions of the Gaussian count, the others being alike; all where the event has no more.
        dropout: chance of a feature of the last hidden layer to be left out of a step; of no effect without any.
        thinning: each step hides a share of what was observed of every row, uniform from 0 to this.
        learning_rate: peak rate of the default optimizer, 2e-3 when None; not with ``optimizer``.
        epochs, batch_size, optimizer, ema_decay, checkpoint_dir, checkpoint_every, max_seconds, progress, metrics: as in
            `jaxflows.fit`. It trains on one device.

    Returns:
        ``(classifier, report)``; ``classifier.chances(rows, observed)`` are P(class | y_O).

    Raises:
        ValueError, TypeError: arguments or data that do not fit, before anything is compiled: among them labels of fewer than
            two classes and a column that was never observed.
        FloatingPointError: a training loss that is not finite.

    Cost a step and row: a factorisation of rank x rank, rank^2 products with d, and a gradient of the network.

    Example:
        >>> classifier, report = jf.fit_classifier(key, digits, observed, labels)
        >>> classes = classifier.chances(rows, seen).argmax(axis=1)
    """
    rate = 2e-3 if learning_rate is None and optimizer is None else learning_rate
    options = RunOptions(
        epochs, batch_size, optimizer, rate, 0.02, 1.0, ema_decay, None, None,
        checkpoint_dir, checkpoint_every, max_seconds, progress, metrics, [jax.local_devices()[0]],
    )  # fmt: skip
    options.check()
    if not 0.0 <= thinning < 1.0:
        raise ValueError(f"expected thinning in [0, 1); got {thinning}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"expected dropout in [0, 1); got {dropout}")
    if rank < 1:
        raise ValueError(f"expected rank >= 1; got {rank}")
    values, seen = checked_rows(rows, observed, None)
    if len(values) < 2:
        raise ValueError(f"expected at least two rows; got {len(values)}")
    event_shape = values.shape[1:]
    check_head(event_shape, hidden, True)
    if gaussian is not None and tuple(gaussian.event_shape) != event_shape:
        raise ValueError(f"expected a Gaussian of events {event_shape}; got {tuple(gaussian.event_shape)}")
    if gaussian is None:
        check_columns(values, seen, constants=True)
    known = checked_labels(labels, len(values))
    used = np.flatnonzero((known >= 0) & seen.reshape(len(seen), -1).any(axis=1))
    classes = len(np.unique(known[used]))
    if classes < 2:
        raise ValueError(f"expected labels of at least two classes on rows with something observed; got {classes}")
    gaussian = fit_gaussian_pairs(values, seen) if gaussian is None else gaussian
    size = math.prod(event_shape)
    moments = mass_moments(gaussian, rank, (size, size), jnp.result_type(float))
    values, seen, known = values[used], seen[used], known[used]

    k_init, k_order, k_step = jax.random.split(key, 3)
    order = options.order(k_order, len(values))
    transformation, schedule = options.transformation(order)
    start = fresh_head(k_init, inputs_shape(event_shape, bool(hidden)), int(known.max()) + 1, hidden)

    def loss(key: jax.Array, params: Any, batch: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        y, m, label = batch
        k_share, k_keep, k_drop = jax.random.split(key, 3)
        share = thinning * jax.random.uniform(k_share, (len(y),) + (1,) * len(event_shape))
        thinned = m & (jax.random.uniform(k_keep, m.shape) >= share)
        t = jax.vmap(lambda y, m: inputs(moments, y, m, bool(hidden)))(y, thinned)
        return head_loss(params, t, jnp.ones(len(t), bool), label, dropout=(k_drop, dropout) if hidden else None)

    description = {
        "rows": digest(values), "mask": digest(seen), "labels": digest(known), "hidden": list(hidden), "thinning": thinning,
        "dropout": dropout, "rank": rank, "gaussian": digest_of(moments), **options.description(k_order, order),
    }  # fmt: skip
    ended = run(
        options, order, options.state(start, transformation),
        lambda parts: constrained_step(lambda p: p, full_precision(loss), transformation, schedule, k_step, ema_decay),
        lambda numbers: (jnp.asarray(values[numbers]), jnp.asarray(seen[numbers]), jnp.asarray(known[numbers], jnp.int32)),
        None, description, "fit classifier",
    )  # fmt: skip
    some = order.epoch(0).reshape(-1)[:_FIRST_ROWS]
    parts = [some[start : start + AT_ONCE] for start in range(0, len(some), AT_ONCE)]
    told = jnp.concatenate([inputs_of(bool(hidden), moments, values[part], seen[part]) for part in parts])
    head = PredictionHead(ended.params, *weighted_moments(told, jnp.ones(len(told), told.dtype), ended.params))
    report = ClassifierReport(
        np.asarray(ended.done.losses), ended.done.seconds, str(ended.done.finished), ended.resumed_at, len(values)
    )
    return RowClassifier(head, moments), report
