"""Training rows: what is accepted, the part held out, and the order in which mini-batches are drawn."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.flows import Flow

# entries looked at together: rows on a disk may not fit into memory
_ENTRIES_AT_ONCE = 2**22


def check_rows(flow: Flow, rows: Any, name: str, *, noisy: bool) -> np.ndarray:
    """Return ``rows`` as a host array of shape (n, *event_shape); raise before anything is traced when they are unfit.

    Half precision is promoted to float32. Integers have no density: they pass only when noise is added to them.

    Args:
        flow: gives the event's shape.
        rows: (n, *event_shape), n >= 1.
        name: what to call them in an error.
        noisy: whether a noise function turns every batch into floats.
    """
    rows = np.asarray(rows)
    if rows.shape[1:] != flow.event_shape or rows.ndim == 0:
        wanted = ", ".join(["n", *map(str, flow.event_shape)])
        raise ValueError(f"expected {name} of shape ({wanted}); got {rows.shape}")
    if rows.shape[0] == 0:
        raise ValueError(f"expected {name} of at least one row; got none")
    if rows.dtype == bool or np.issubdtype(rows.dtype, np.integer):
        if not noisy:
            raise TypeError(
                f"expected {name} of a floating dtype; got {rows.dtype}, which has no density: pass noise=, a function "
                "(key, batch) -> batch that dequantises, such as "
                "lambda key, batch: (batch + jax.random.uniform(key, batch.shape)) / 256"
            )
        return rows
    if not jnp.issubdtype(rows.dtype, jnp.floating):
        raise TypeError(f"expected {name} of a floating dtype; got {rows.dtype}")
    if rows.dtype.itemsize < 4:
        rows = rows.astype(np.float32)
    at_once = max(1, _ENTRIES_AT_ONCE // max(1, flow.size))
    first, count = None, 0
    for start in range(0, len(rows), at_once):
        unfit = ~np.isfinite(rows[start : start + at_once])
        if unfit.any():
            count += int(unfit.sum())
            row, *position = (int(i) for i in np.argwhere(unfit)[0])
            first = first or (start + row, position)
    if first is not None:
        row, position = first
        at = position[0] if len(position) == 1 else tuple(position)
        value = rows[row][tuple(position)]
        raise ValueError(f"expected finite {name}; got {value} at row {row}, position {at} ({count} such in all)")
    return rows


def hold_out(key: jax.Array, rows: np.ndarray, validation: Any) -> tuple[np.ndarray, np.ndarray]:
    """Split off a random share of the rows: ``(training rows, validation rows)``, the latter perhaps empty.

    Args:
        key: the draw.
        rows: (n, *event_shape).
        validation: the share held out, in [0, 1); rounded down, so that few rows may leave none.
    """
    if not 0.0 <= validation < 1.0:
        raise ValueError(f"expected validation to be an array or a share in [0, 1); got {validation}")
    count = int(len(rows) * validation)
    order = np.asarray(jax.random.permutation(key, len(rows)))
    return rows[np.sort(order[count:])], rows[order[:count]]


class BatchOrder(NamedTuple):
    """Which rows step t sees: an independent permutation each epoch, a pure function of (key, t), nothing to save.

    Attributes:
        key: of all permutations.
        size: rows there are.
        batch_size: rows a step, at most ``size``; what is left over at an epoch's end waits for the next permutation.
    """

    key: jax.Array
    size: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches an epoch."""
        return self.size // self.batch_size

    def epoch(self, number: int) -> np.ndarray:
        """Row numbers of one epoch, shape (steps_per_epoch, batch_size)."""
        order = np.asarray(jax.random.permutation(jax.random.fold_in(self.key, number), self.size))
        return order[: self.steps_per_epoch * self.batch_size].reshape(self.steps_per_epoch, self.batch_size)

    def starting_at(self, number: int) -> Iterator[np.ndarray]:
        """Row numbers of step ``number`` and all that follow, (batch_size,) each, without end."""
        first, skipped = divmod(number, self.steps_per_epoch)
        for epoch in itertools.count(first):
            yield from self.epoch(epoch)[skipped if epoch == first else 0 :]


def digest(rows: np.ndarray) -> str:
    """A checksum of the rows' shape, dtype and bytes, so that a checkpoint knows the data it was made with."""
    summary = hashlib.blake2b(f"{rows.shape} {rows.dtype}".encode(), digest_size=16)
    summary.update(np.ascontiguousarray(rows).data)
    return summary.hexdigest()
