"""Means of diagnostics that some rows have not."""

from __future__ import annotations

from typing import Any

import numpy as np


def known_mean(values: np.ndarray, axis: int | None = None) -> Any:
    """Mean of what is finite along an axis, or of all; NaN, without a warning, where nothing is."""
    known = np.isfinite(values)
    count = np.sum(known, axis=axis)
    mean = np.sum(np.where(known, values, 0.0), axis=axis) / np.maximum(count, 1)
    # a number and no array where there is one
    return np.where(count > 0, mean, np.nan)[()]
