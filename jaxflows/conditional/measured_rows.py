"""A batch of rows and what was measured of each: a mask a row, or one linear measurement for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows import observation as observe
from jaxflows.flows import Flow
from jaxflows.observation import LinearMeasurement, Observation

# entries of the Jacobians held at once by one compiled call: 64 rows of 64 x 64, or one of 512 x 512, on a CPU, whose caches
# they should fit; an accelerator is fast only when it has much to do at a time
ENTRIES_AT_ONCE = 64**3
ENTRIES_AT_ONCE_ON_ACCELERATOR = 64**4


def rows_at_once(entries: int, most: int) -> int:
    """How many rows one compiled call takes, from 1 to ``most``, where each has Jacobians of so many ``entries``."""
    room = ENTRIES_AT_ONCE if jax.default_backend() == "cpu" else ENTRIES_AT_ONCE_ON_ACCELERATOR
    return min(max(1, room // max(1, entries)), max(1, most))


class RowBatch(NamedTuple):
    """Some rows as one compiled call takes them.

    Attributes:
        numbers: which rows they are; the arrays may have more of the first one behind them.
        keys: one a row, of the row's number and nothing else.
        observations: every leaf with a leading axis.
        known: (at once, *event), P_O y.
    """

    numbers: np.ndarray
    keys: jax.Array
    observations: Observation
    known: jax.Array


class MeasuredRows(NamedTuple):
    """Checked input of `jaxflows.complete`.

    Attributes:
        given: (rows, *event), P_O y: the rows with zero where hidden, or for a linear measurement A^+ b.
        seen: (rows, *event) boolean, entries that come back as given; none with a linear measurement.
        hidden_counts: (rows,), dimensions left free.
        observations: ``positions -> Observation`` of those rows, every leaf with a leading axis.
    """

    given: np.ndarray
    seen: np.ndarray
    hidden_counts: np.ndarray
    observations: Callable[[np.ndarray], Observation]

    def known(self, batch: np.ndarray) -> jax.Array:
        """P_O y of some rows, in the precision that JAX is set to."""
        return jnp.asarray(self.given[batch])

    def what_is_seen(self) -> tuple[Any, ...]:
        """What was observed of every row, as arrays: entries, counts, and the observation of one row."""
        return self.seen, self.hidden_counts, self.observations(np.arange(min(1, len(self.given))))

    def batches(self, key: jax.Array, todo: np.ndarray, at_once: int) -> Iterator[RowBatch]:
        """The rows of ``todo``, ``at_once`` of them at a time.

        A short last batch is filled up with its own first row: one compiled shape for all.
        """
        for first in range(0, len(todo), at_once):
            numbers = todo[first : first + at_once]
            padded = np.concatenate([numbers, np.full(at_once - len(numbers), numbers[0], numbers.dtype)])
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(padded))
            yield RowBatch(numbers, keys, self.observations(padded), self.known(padded))


def measured_rows(flow: Flow, rows: Any, observed: Any) -> MeasuredRows:
    """Check rows and what was observed of them.

    Args:
        flow: the flow.
        rows: (rows, *event), or (rows, m) measurements where ``observed`` is a linear measurement.
        observed: (rows, *event) or (*event,) boolean, or a `LinearMeasurement`.

    Raises:
        ValueError: shapes and dtypes that do not fit, or NaN or infinity where observed (row and position named).
    """
    rows = np.asarray(rows)
    if not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(
            f"expected floating-point rows on the scale the flow was trained on; got dtype {rows.dtype} "
            "(for 8-bit images: rows / 255)"
        )
    return _linear(flow, rows, observed) if isinstance(observed, LinearMeasurement) else _masked(flow, rows, observed)


def _masked(flow: Flow, rows: np.ndarray, observed: Any) -> MeasuredRows:
    observed = np.asarray(observed)
    if rows.shape[1:] != flow.event_shape or rows.ndim != len(flow.event_shape) + 1:
        raise ValueError(f"expected rows of shape (rows, {', '.join(map(str, flow.event_shape))}); got {rows.shape}")
    if observed.dtype != np.bool_:
        raise ValueError(f"expected a boolean mask, True where observed; got dtype {observed.dtype}")
    if observed.shape == flow.event_shape:
        observed = np.broadcast_to(observed, rows.shape)
    if observed.shape != rows.shape:
        raise ValueError(f"expected a mask of shape {rows.shape} or {flow.event_shape}; got {observed.shape}")
    _check_finite(rows, observed, "observed entries")
    dtype = np.float32 if rows.dtype == np.float16 else rows.dtype
    hidden_counts = np.sum(~observed, axis=tuple(range(1, rows.ndim)))
    given = np.where(observed, rows, 0.0).astype(dtype)
    return MeasuredRows(given, observed, hidden_counts, lambda batch: jax.vmap(observe.mask)(jnp.asarray(observed[batch])))


def _linear(flow: Flow, rows: np.ndarray, measurement: LinearMeasurement) -> MeasuredRows:
    observation = measurement.observation
    if observation.observed.shape != flow.event_shape:
        raise ValueError(
            f"expected a measurement of events of shape {flow.event_shape}; got one of {observation.observed.shape}"
        )
    count = int(np.sum(observation.observed))
    if rows.ndim != 2 or rows.shape[1] != count:
        raise ValueError(f"expected measurements of shape (rows, {count}); got {rows.shape}")
    _check_finite(rows, np.ones(rows.shape, bool), "measurements")
    values = jnp.asarray(rows)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    given = np.array(jax.vmap(measurement.pseudo_inverse)(values))

    def observations(batch: np.ndarray) -> Observation:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(batch), *leaf.shape)), observation)

    hidden_counts = np.full(len(rows), flow.size - count)
    return MeasuredRows(given, np.zeros(given.shape, bool), hidden_counts, observations)


def _check_finite(rows: np.ndarray, observed: np.ndarray, what: str) -> None:
    bad = observed & ~np.isfinite(rows)
    if bad.any():
        row, *position = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"expected finite {what}; got {rows[(row, *position)]} in row {row} at position {tuple(position)}")
