"""Who decides what is missing: mechanisms of missingness, each a function of a seed that gives one fixed mask a row.

With m = 1 where an entry is missing and y = (y_O, y_H) (Rubin 1976; Little and Rubin 2019, Sec. 1.3):

    MCAR    P(m | y) = P(m)            entries by chance (`mcar`), or a square of each event (`block`)
    MAR     P(m | y) = P(m | y_O)      decided by columns that are always observed (`mar`)
    MNAR    P(m | y) depends on y_H    an entry's own value decides (`mnar`)

Maximum likelihood from the observed entries needs no model of the mask under MCAR and MAR; under MNAR it is biased without
one. Both logistic models are calibrated on the rows given: the mean chance of every column is exactly the rate.
"""

from __future__ import annotations

import numpy as np

# halvings of the interval in which a column's intercept lies: float64 has no more digits
_HALVINGS = 60


def mcar(count: int, event_shape: tuple[int, ...], rate: float, *, seed: int = 0) -> np.ndarray:
    """Each entry missing with probability ``rate``, whatever the data; the channels of an image's pixel together.

    Args:
        count: how many rows.
        event_shape: (d,), (height, width) or (height, width, channels).
        rate: in [0, 1].
        seed: equal seeds give equal masks.

    Returns:
        Boolean, (count, *event_shape): True where observed.
    """
    _check_rate(rate)
    observed = np.random.default_rng(seed).random((count, *event_shape[:2])) >= rate
    return share_channels(observed, (count, *event_shape))


def block(count: int, event_shape: tuple[int, ...], side: int, *, seed: int = 0) -> np.ndarray:
    """A square of ``side`` missing from each image, a run of that length from each vector, anywhere with equal chance.

    Args:
        count: how many rows.
        event_shape: (d,), (height, width) or (height, width, channels).
        side: from 1 to the event's shortest side.
        seed: equal seeds give equal masks.

    Returns:
        Boolean, (count, *event_shape): True where observed.
    """
    space = event_shape[:2]
    longest = min(space, default=0)
    if not 0 < side <= longest:
        raise ValueError(f"expected a block with a side from 1 to {longest} in events {event_shape}; got {side}")
    rng = np.random.default_rng(seed)
    missing = np.ones((count, *space), bool)
    for axis, length in enumerate(space):
        first = rng.integers(0, length - side + 1, (count, 1))
        within = (np.arange(length) >= first) & (np.arange(length) < first + side)
        missing &= within.reshape([count, *(length if i == axis else 1 for i in range(len(space)))])
    return share_channels(~missing, (count, *event_shape))


def mar(rows: np.ndarray, rate: float, *, always: tuple[int, ...], strength: float = 2.0, seed: int = 0) -> np.ndarray:
    """Some columns always observed, and the chance of every other entry to be missing a function of theirs.

        P(m_ij = 1 | y_i) = sigmoid( a_j + strength w_j^T z_i ),   |w_j| = 1

    z the always observed columns, standardised, w_j a random direction a column, a_j such that column j's mean chance is
    the rate.

    Args:
        rows: (n, d), finite.
        rate: of the columns that may be missing, in [0, 1].
        always: which columns are always observed; some, not all.
        strength: standard deviation of the log-odds of uncorrelated columns; 0 is MCAR.
        seed: of the directions and the draws.

    Returns:
        Boolean, (n, d): True where observed.
    """
    rows = _checked(rows, rate, strength)
    if rows.ndim != 2:
        raise ValueError(f"expected rows of vectors, (n, d); got shape {rows.shape}")
    size = rows.shape[1]
    chosen = sorted(set(always))
    if not 0 < len(chosen) < size or chosen[0] < 0 or chosen[-1] >= size:
        raise ValueError(f"expected some of the columns 0 to {size - 1} as always observed, not all; got {always}")
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(size), chosen)
    directions = rng.standard_normal((len(chosen), len(others)))
    directions /= np.linalg.norm(directions, axis=0)
    observed = np.ones(rows.shape, bool)
    odds = strength * standardised(rows[:, chosen]) @ directions
    observed[:, others] = rng.random(odds.shape) >= _calibrated(odds, rate)
    return observed


def mnar(rows: np.ndarray, rate: float, *, strength: float = 2.0, seed: int = 0) -> np.ndarray:
    """The chance of an entry to be missing a function of its own value, the higher the likelier (self-masking).

        P(m_ij = 1 | y_i) = sigmoid( a_j + strength z_ij )

    z the standardised columns, a_j such that column j's mean chance is the rate.

    Args:
        rows: (n, *event), finite.
        rate: in [0, 1].
        strength: standard deviation of the log-odds; negative for low values to be missing, 0 is MCAR.
        seed: of the draws.

    Returns:
        Boolean, (n, *event): True where observed.
    """
    rows = _checked(rows, rate, strength)
    chances = _calibrated(strength * standardised(rows), rate)
    return np.random.default_rng(seed).random(rows.shape) >= chances


def standardised(rows: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; a constant column becomes 0."""
    deviation = rows.std(axis=0)
    return (rows - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def share_channels(observed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of ``shape`` in which the trailing axes that ``observed`` lacks share its values."""
    trailing = observed.reshape(observed.shape + (1,) * (len(shape) - observed.ndim))
    return np.broadcast_to(trailing, shape).copy()


def _calibrated(odds: np.ndarray, rate: float) -> np.ndarray:
    """sigmoid(odds + a), a column by column such that the mean over rows is the rate."""
    if rate in (0.0, 1.0):
        return np.full(odds.shape, rate)
    # at the ends every chance is below, and above, the rate
    centre = np.log(rate / (1.0 - rate))
    low, high = centre - odds.max(axis=0), centre - odds.min(axis=0)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        more = _sigmoid(odds + middle).mean(axis=0) < rate
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return _sigmoid(odds + 0.5 * (low + high))


def _sigmoid(t: np.ndarray) -> np.ndarray:
    # exp of what is not positive never overflows
    small = np.exp(-np.abs(t))
    return np.where(t >= 0, 1.0, small) / (1.0 + small)


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"expected a missing fraction in [0, 1]; got {rate}")


def _checked(rows: np.ndarray, rate: float, strength: float) -> np.ndarray:
    _check_rate(rate)
    if not np.isfinite(strength):
        raise ValueError(f"expected a finite strength; got {strength}")
    rows = np.asarray(rows, np.float64)
    if rows.ndim < 2 or not len(rows):
        raise ValueError(f"expected at least one row of events, (n, *event); got shape {rows.shape}")
    if not np.all(np.isfinite(rows)):
        row, *position = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise ValueError(f"expected complete, finite rows; got {rows[(row, *position)]} in row {row} at {tuple(position)}")
    return rows
