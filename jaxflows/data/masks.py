"""Masks by name or from a file: boolean arrays, True where an entry was observed."""

from __future__ import annotations

import math
import os

import numpy as np

from jaxflows.data.arrays import DataFileError, load_array
from jaxflows.data.missingness import mcar, share_channels

MASK_NAMES = ("all", "none", "missing:FRACTION", "centre:SIDE", "left", "right", "top", "bottom")
_HALVES = {"left": (1, 0), "right": (1, 1), "top": (0, 0), "bottom": (0, 1)}


def named_mask(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A mask by name.

    ==================== ==========================================================================
    name                 what is MISSING
    ==================== ==========================================================================
    ``none``, ``all``    nothing was observed; everything was observed
    ``missing:0.5``      each entry, at random, with probability 0.5 (MCAR); image channels together
    ``centre:8``         a centred square of side 8 of an image (a centred run of a vector)
    ``left`` ``right``   that half of an image (of a vector)
    ``top`` ``bottom``   that half of an image
    ==================== ==========================================================================

    Args:
        name: one of the above.
        shape: event shape: (d,), (height, width) or (height, width, channels).
        seed: of the random masks; equal seeds give equal masks.

    Returns:
        Boolean, of ``shape``: True where observed.

    Raises:
        ValueError: an unknown name, a number out of range, or a mask for images asked of something else.
    """
    kind, _, argument = name.partition(":")
    if name in ("all", "none"):
        return np.full(shape, name == "all")
    if kind == "missing":
        fraction = _argument(name, argument, float)
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"expected a missing fraction in [0, 1]; got {name!r}")
        return mcar(1, shape, fraction, seed=seed)[0]
    if kind == "centre":
        side = _argument(name, argument, int)
        space = shape[:2]
        longest = min(space, default=0)
        if not 0 < side <= longest:
            raise ValueError(f"expected a centred square with a side from 1 to {longest} in events {shape}; got {name!r}")
        hole = tuple(slice((length - side) // 2, (length - side) // 2 + side) for length in space)
        observed = np.ones(space, bool)
        observed[hole] = False
        return share_channels(observed, shape)
    if name in _HALVES:
        axis, end = _HALVES[name]
        axis = axis if len(shape) > 1 else 0
        if not shape or (len(shape) == 1 and name in ("top", "bottom")):
            raise ValueError(f"expected an image for the mask {name!r}; got events of shape {shape}")
        position = np.arange(shape[axis])
        missing = position >= shape[axis] // 2 if end else position < shape[axis] // 2
        observed = ~missing.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.broadcast_to(observed, shape).copy()
    raise ValueError(f"expected a mask of {', '.join(MASK_NAMES)}; got {name!r}")


def _argument(name: str, argument: str, convert: type) -> float | int:
    try:
        value = convert(argument)
    except ValueError:
        raise ValueError(f"expected a number after the colon, such as 'missing:0.5' or 'centre:8'; got {name!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number after the colon; got {name!r}")
    return value


def load_mask(path: str | os.PathLike[str], event_shape: tuple[int, ...], *, key: str | None = None) -> np.ndarray:
    """Read a mask file: ``.npy``, ``.npz`` or an image; non-zero (white) where observed.

    Args:
        path: the file; numbers must be 0 and 1 or booleans, images black and white (split at mid-grey).
        event_shape: shape of one event.
        key: which array of an ``.npz``.

    Returns:
        Boolean, of ``event_shape`` for one mask, or (rows, *event_shape) for a mask a row.

    Raises:
        DataFileError: unreadable, of another shape, or with values that are neither 0 nor 1.
    """
    array = load_array(path, key=key)
    if str(path).lower().endswith((".npy", ".npz", ".csv")):
        if not np.all((array == 0) | (array == 1)):
            raise DataFileError(f"{path}: expected a mask of zeros and ones; got values from {array.min()} to {array.max()}")
        observed = array != 0
    else:
        observed = array >= 128
    if observed.shape == event_shape[:2] and len(event_shape) == 3:
        observed = share_channels(observed, event_shape)
    if observed.shape[-len(event_shape) :] != event_shape or observed.ndim > len(event_shape) + 1:
        raise DataFileError(f"{path}: expected a mask of shape {event_shape}, or one such a row; got {observed.shape}")
    return observed
