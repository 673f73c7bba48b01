"""The orthonormal discrete cosine transform (DCT-II) as a matrix, an axis at a time."""

from __future__ import annotations

import functools
import math

import numpy as np


@functools.cache
def cosine_matrix(side: int) -> np.ndarray:
    """(side, side), orthogonal, a row a frequency from 0 up; not to be written to."""
    rows = np.cos(np.pi * np.outer(np.arange(side), np.arange(side) + 0.5) / side) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    rows.flags.writeable = False
    return rows
