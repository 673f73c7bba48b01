"""Training rows with holes: what is accepted, what is skipped, and how mini-batches are gathered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxflows.data.incomplete_rows import check_columns, with_holes
from jaxflows.flows import Flow
from jaxflows.training.joint_loss import IncompleteBatch
from jaxflows.training.rows import check_rows, digest


class IncompleteData(NamedTuple):
    """Rows with something observed.

    Attributes:
        values: (n, *event), 0 where hidden.
        observed: (n, *event) boolean.
        labels: (n,) integers, -1 where unknown.
        empty: how many rows with nothing observed were left out.
        numbers: (n,) of the rows among those that were given.
    """

    values: np.ndarray
    observed: np.ndarray
    labels: np.ndarray
    empty: int
    numbers: np.ndarray

    def take(self, numbers: np.ndarray) -> IncompleteData:
        """Some of the rows."""
        return IncompleteData(
            self.values[numbers], self.observed[numbers], self.labels[numbers], self.empty, self.numbers[numbers]
        )

    def batch(self, dtype: Any) -> Callable[[np.ndarray], IncompleteBatch]:
        """``row numbers -> mini-batch``."""

        def gather(numbers: np.ndarray) -> IncompleteBatch:
            some = self.take(numbers)
            return IncompleteBatch(
                jnp.asarray(some.values, dtype), jnp.asarray(some.observed), jnp.asarray(some.labels, jnp.int32)
            )

        return gather

    def digests(self, name: str) -> dict[str, str]:
        """Checksums by which a checkpoint knows its rows, masks and labels."""
        return {name: digest(self.values), f"{name} mask": digest(self.observed), f"{name} labels": digest(self.labels)}


def incomplete_data(
    flow: Flow, data: Any, observed: Any, *, name: str, noisy: bool, labels: Any = None, columns: bool = True
) -> IncompleteData:
    """Check rows with holes, before anything is traced.

    Args:
        flow: gives the event's shape.
        data: (n, *event_shape), finite where observed.
        observed: (n, *event_shape) boolean.
        name: what to call the rows in an error.
        noisy: whether a noise function turns every batch into floats and constants into variables.
        labels: (n,) integers from 0, -1 where unknown; None where none is known.
        columns: whether every column has to be observed in some row and, without noise, to take two values.
    """
    values, observed = with_holes(data, observed)
    values = check_rows(flow, values, name, noisy=noisy)
    if columns:
        check_columns(values, observed, constants=noisy)
    labels = checked_labels(np.full(len(values), -1) if labels is None else labels, len(values))
    some = np.flatnonzero(observed.reshape(len(values), -1).any(axis=1))
    return IncompleteData(values[some], observed[some], labels[some], len(values) - len(some), some)


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """Integers (count,) from 0, or -1 where unknown, in int64; ValueError for others."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer labels of shape ({count},); got {labels.dtype} of shape {labels.shape}")
    if labels.min(initial=0) < -1:
        row = int(labels.argmin())
        raise ValueError(f"expected labels from 0, or -1 where unknown; got {labels[row]} at row {row}")
    # -1 has to fit into what the labels come as
    return labels.astype(np.int64)
