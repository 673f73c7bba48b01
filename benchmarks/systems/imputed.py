"""What every comparator takes and returns, and the fillings that they start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Imputed(NamedTuple):
    """Test rows completed.

    Attributes:
        mean: (n, d), the system's point estimate; observed entries as given.
        samples: (n, S, d), its draws; None where it makes none.
        seconds: of training, compilation included; without the completion of the test rows.
        steps: of training: optimiser steps, or rounds of what has none.
        noisy: (n, S, d), the draws with the noise that the system models a pixel with; None where it models none.
    """

    mean: np.ndarray
    samples: np.ndarray | None
    seconds: float
    steps: int
    noisy: np.ndarray | None = None


def checked(rows: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in float32 with 0 in their holes, and their mask.

    Raises:
        ValueError: a mask of another shape or type; observed entries outside [0, 1], which the comparators clip to.
    """
    rows, mask = np.asarray(rows, np.float32), np.asarray(mask)
    if rows.ndim != 2 or mask.shape != rows.shape or mask.dtype != np.bool_:
        raise ValueError(f"expected rows (n, d) and a boolean mask of their shape; got {rows.shape}, {mask.dtype} {mask.shape}")
    known = rows[mask]
    if not np.all((known >= 0) & (known <= 1)):
        raise ValueError(f"expected observed entries in [0, 1]; got {known.min()} to {known.max()}")
    return np.where(mask, rows, np.float32(0.0)), mask


def of_draws(draws: Sequence[np.ndarray], rows: np.ndarray, mask: np.ndarray, seconds: float, steps: int) -> Imputed:
    """Draws, S of (n, d), with the observed entries put back, and their mean."""
    samples = np.where(mask[:, None], rows[:, None], np.stack(draws, axis=1))
    return Imputed(np.where(mask, rows, samples.mean(axis=1)), samples, seconds, steps)


def filled_by_columns(seed: int, rows: np.ndarray, mask: np.ndarray, sources: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Every hole filled with an observed value of its column, drawn at random.

    Args:
        seed: of the draws.
        rows, mask: what is filled.
        sources: rows and mask from whose observed entries is drawn; a column without any gets 0.5.
    """
    rng = np.random.default_rng(seed)
    filled = rows.copy()
    for column in range(rows.shape[1]):
        known = sources[0][sources[1][:, column], column]
        holes = np.flatnonzero(~mask[:, column])
        filled[holes, column] = rng.choice(known, len(holes)) if len(known) else 0.5
    return filled


def filled_by_neighbours(rows: np.ndarray, mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Every missing pixel filled with one of the nearest observed ones, by chessboard distance; 0.5 in an empty image."""
    from scipy.ndimage import distance_transform_cdt

    filled = rows.copy()
    for row, seen in zip(filled, mask, strict=True):
        if not seen.any():
            row[:] = 0.5
            continue
        _, nearest = distance_transform_cdt(~seen.reshape(shape), metric="chessboard", return_indices=True)
        row[:] = row.reshape(shape)[tuple(nearest)].reshape(-1)
    return np.where(mask, rows, filled)


def initial_filling(
    seed: int, rows: np.ndarray, mask: np.ndarray, sources: tuple[np.ndarray, np.ndarray], shape: tuple[int, int] | None
) -> np.ndarray:
    """MCFlow's first filling: by columns in tables, by neighbours in images of that shape."""
    return filled_by_columns(seed, rows, mask, sources) if shape is None else filled_by_neighbours(rows, mask, shape)


def minibatches(seed: int, count: int, size: int) -> np.ndarray:
    """Row numbers of one epoch in random order, (batches, size); the rest that fills none is left out."""
    size = min(size, count)
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // size * size].reshape(-1, size)
