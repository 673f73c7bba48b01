"""Draws of a Gaussian given what was observed of each row: where completions begin."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.conditional.match_levels import match_levels
from jaxflows.conditional.row_posteriors import rounded_slots
from jaxflows.conditional.spreads import (
    Moments,
    Principal,
    conditional_spread,
    gaussian_completion,
    gaussian_event,
    moments_of,
    principal_of,
)
from jaxflows.data.incomplete_rows import check_finite, filled_up, with_holes
from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.metrics.nonparanormal import Nonparanormal
from jaxflows.observation import mask
from jaxflows.precision import full_precision
from jaxflows.progress import progress_bar

# rows drawn at a time
_AT_ONCE = 1024

Bounds = tuple[int, int]


def gaussian_completions(
    key: jax.Array, gaussian: Gaussian | Nonparanormal, rows: Any, observed: Any, *, rank: int | None = None,
    matched: bool = False, progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """One joint draw of N(y_H | y_O) for each row, (n, *event), in float32; what was observed stays.

    Where `jaxflows.fit_by_moves` begins when it is told nothing, and what to make other beginnings from: with labels, draws of
    one Gaussian for each class are nearer to the truth. `jaxflows.metrics.gaussian_conditional` also gives means and
    deviations, in float64, and takes several times as long.

    Args:
        key: of the draws; that of a row depends on its number alone, not on the other rows.
        gaussian: of events, with the noise of the rows; or what maps entries before it, `jaxflows.metrics.fit_nonparanormal`.
        rows: (n, *event), finite where observed; anything where hidden.
        observed: (n, *event) boolean, True where observed.
        rank: how many leading directions of the Gaussian count, the others being alike, where that is less than is hidden and
            less than is observed; None for all.
        matched: map what was drawn, from rank to rank, to the levels that observed entries have, all entries and rows taken
            together (`jaxflows.match_levels`): for entries of one kind that are missing at random (MCAR), as pixels. A row's
            draw then depends on the other rows.
        progress: show a bar.

    Raises:
        ValueError: shapes that do not fit the Gaussian or each other, entries observed that are not finite, or a rank out of
            range.

    Cost: a factorisation of K x K a row, K being the least of ``rank``, of how many entries are hidden and how many observed.

    Example:
        >>> pooled = jf.metrics.fit_gaussian_pairs(rows, observed)
        >>> start = np.empty(rows.shape, np.float32)
        >>> for number in range(10):
        ...     own = labels == number
        ...     gaussian = jf.metrics.fit_gaussian_pairs(rows[own], observed[own], prior=pooled)
        ...     start[own] = jf.gaussian_completions(jax.random.key(number), gaussian, rows[own], observed[own])
        >>> model, report = jf.fit_by_moves(key, flow, rows, observed, completions=start)
    """
    values, observed = with_holes(np.asarray(rows), observed)
    if values.shape[1:] != tuple(gaussian.event_shape):
        raise ValueError(f"expected rows (n, *{tuple(gaussian.event_shape)}); got {values.shape}")
    check_rank(rank, math.prod(gaussian.event_shape))
    values = values.astype(np.float32)
    check_finite(values)
    if not len(values):
        return values
    if isinstance(gaussian, Nonparanormal):
        behind = gaussian.to_gaussian(np.where(observed, values, 0.0))
        drawn = gaussian_completions(key, gaussian.gaussian, behind, observed, rank=rank, progress=progress)
        filled = np.where(observed, values, gaussian.to_events(drawn))
        return match_levels(filled, observed, filled[observed]) if matched and observed.any() else filled
    bounds = slots(observed)
    moments = mass_moments(gaussian, rank, bounds, jnp.float32)
    filled = np.empty_like(values)
    with progress_bar(len(values), description="completions", unit="row", show=progress) as bar:
        for start in range(0, len(values), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            rows, seen = filled_up(values[some], observed[some])
            keys = jax.random.split(jax.random.fold_in(key, start), len(rows))
            count = len(filled[some])
            filled[some] = _draws(bounds, moments, keys, rows, seen)[:count]
            bar.update(count)
    return match_levels(filled, observed, filled[observed]) if matched and observed.any() else filled


def slots(observed: np.ndarray) -> Bounds:
    """Room for the hidden and for the observed entries of every row, (n, *event) boolean."""
    flat = observed.reshape(len(observed), -1)
    counts = np.sum(flat, axis=1)
    size = flat.shape[1]
    return rounded_slots(int(size - counts.min()), size), rounded_slots(int(counts.max()), size)


def check_rank(rank: int | None, size: int) -> None:
    """Raise ValueError for other than 1 to ``size`` - 1, or None."""
    if rank is not None and not 1 <= rank < size:
        raise ValueError(f"expected a rank from 1 to {size - 1}, or None for all directions; got {rank}")


def mass_moments(gaussian: Gaussian, rank: int | None, bounds: Bounds, dtype: Any) -> Moments | Principal:
    """Of a Gaussian, or of its leading ``rank`` directions where those are fewer than the ``slots``."""
    mean, covariance = gaussian.mean.reshape(gaussian.event_shape), gaussian.factor @ gaussian.factor.T
    if rank is not None and rank < min(bounds):
        return principal_of(mean, covariance, rank, dtype)
    return moments_of(jnp.asarray(mean, dtype), jnp.asarray(covariance, dtype))


def begun(
    key: jax.Array, moments: Moments | Principal, bounds: Bounds, row: jax.Array, observed: jax.Array
) -> tuple[Any, jax.Array]:
    """The spread of one row's hidden entries, and a draw of the Gaussian given the row."""
    observation = mask(observed)
    spread = conditional_spread(moments, observation, *bounds)
    event = gaussian_event(key, moments)
    return spread, gaussian_completion(moments, observation, spread, observation.observed_part(row), event)


@functools.partial(jax.jit, static_argnums=0)
@full_precision
def _draws(bounds: Bounds, moments: Moments | Principal, keys: jax.Array, rows: jax.Array, observed: jax.Array) -> jax.Array:
    def one(some: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return begun(some[0], moments, bounds, *some[1:])[1]

    return jax.lax.map(one, (keys, rows, observed), batch_size=64)
