"""Rows with holes: what is accepted, and what stands in a hole until something better is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# how many columns an error names before it only counts them
_NAMED = 5


def with_holes(data: Any, observed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check a mask against its data; return the data with 0 in every hole, where it may hold anything, and the mask.

    Args:
        data: (n, *event).
        observed: boolean, (n, *event): True where observed, one mask a row.

    Raises:
        ValueError: a mask of another dtype or shape.
    """
    data, observed = np.asarray(data), np.asarray(observed)
    if observed.dtype != np.bool_:
        raise ValueError(f"expected a boolean mask, True where observed; got dtype {observed.dtype}")
    if observed.shape != data.shape:
        raise ValueError(f"expected a mask of the data's shape {data.shape}, one for each row; got {observed.shape}")
    return np.where(observed, data, np.zeros((), data.dtype)), observed


def check_finite(values: np.ndarray) -> None:
    """Raise ValueError for rows (n, *event) of `with_holes` that are not finite where observed."""
    if not np.all(np.isfinite(values)):
        row = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
        raise ValueError(f"expected finite observed entries; got others, first in row {row}")


def filled_up(rows: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A power of two of rows (n, *event) and masks, lest every n be compiled for; those added are 0, all observed."""
    count = len(rows)
    more = [(0, (1 << (count - 1).bit_length()) - count)] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(rows, more), np.pad(observed, more, constant_values=True)


def check_columns(rows: np.ndarray, observed: np.ndarray, *, constants: bool) -> None:
    """Raise ValueError when a column was never observed or, unless ``constants`` are allowed, never took a second value."""
    never = np.argwhere(~observed.any(axis=0))
    if len(never):
        raise ValueError(
            f"expected every column to be observed in some row; got none for {_columns(never)}: nothing can be learnt of it, "
            "leave it out"
        )
    if constants:
        return
    low = np.min(rows, axis=0, where=observed, initial=np.max(rows))
    high = np.max(rows, axis=0, where=observed, initial=np.min(rows))
    fixed = np.argwhere(low == high)
    if len(fixed):
        value = low[tuple(fixed[0])]
        raise ValueError(
            f"expected at least two values in every column; got only {value} in {_columns(fixed)}, where the density has no "
            "maximum: leave it out, or pass noise="
        )


def _columns(positions: np.ndarray) -> str:
    names = [str(int(p[0]) if len(p) == 1 else tuple(int(i) for i in p)) for p in positions[:_NAMED]]
    more = "" if len(positions) <= _NAMED else f" and {len(positions) - _NAMED} more"
    return f"column{'s' if len(positions) > 1 else ''} {', '.join(names)}{more}"


class Filling(NamedTuple):
    """Location and scale of the observed values.

    Attributes:
        centre: (*event,) their median; what stands in holes.
        spread: (*event,) their standard deviation, 1 where that is 0.
    """

    centre: np.ndarray
    spread: np.ndarray


def median_filling(rows: np.ndarray, observed: np.ndarray) -> Filling:
    """Median and standard deviation of the observed entries.

    Of each column for itself in tables (events of rank 1), and of the whole data tensor in images, as the paper has it
    (IVCNF Appendix C).

    Args:
        rows: (n, *event) floating point, finite where observed.
        observed: (n, *event), every column observed somewhere.
    """
    if rows.ndim == 2:
        known = np.where(observed, rows, np.nan)
        centre, spread = np.nanmedian(known, axis=0), np.nanstd(known, axis=0)
    else:
        values = rows[observed]
        centre, spread = np.full(rows.shape[1:], np.median(values)), np.full(rows.shape[1:], np.std(values))
    return Filling(centre.astype(rows.dtype), np.where(spread > 0, spread, 1.0).astype(rows.dtype))


def noisy_fill(rows: np.ndarray, observed: np.ndarray, filling: Filling, normal: np.ndarray) -> np.ndarray:
    """The rows with centre + spread normal in their holes: complete rows of about the right location and scale.

    Args:
        rows, observed: (n, *event).
        filling: their median and deviation.
        normal: (n, *event), standard normal draws; 0 for the median itself.
    """
    return np.where(observed, rows, filling.centre + filling.spread * normal)
