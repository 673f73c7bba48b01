"""Draws given the levels that observed entries have: quantile mapping.

Whatever model completed rows whose entries are of one kind and missing at random, as pixels, the entries it drew should have
the levels of those that were observed, all entries and rows taken together. The map that makes them so is monotone,

    y_H  ->  F_O^{-1}(F_H(y_H)),

F_H and F_O the distributions of drawn and of observed entries: a grey that a Gaussian, or a flow that was not trained for long,
has about black and white becomes black and white, and which of two entries is the lighter stays.

Source: quantile mapping, as forecasts are corrected by (Panofsky and Brier 1968).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# between which the map is linear
_QUANTILES = 2001


def match_levels(draws: Any, observed: Any, levels: Any) -> np.ndarray:
    """Map the hidden entries of draws, from rank to rank, to the levels that observed entries have.

    Args:
        draws: (n, *event), or S of each row, (n, S, *event); entries that are not finite stay as they are.
        observed: (n, *event) boolean, True where observed: those entries stay as they are.
        levels: what observed entries take, of these rows or of others like them, an array of any shape.

    Returns:
        Draws of the same shape and dtype. Each depends on the other rows, more of which make a better map.

    Raises:
        ValueError: draws that are no floats, a mask that does not fit, or levels that are none, or not finite.

    Cost: a sort of all entries.

    Example:
        >>> done = jf.complete(key, flow, params, rows, observed, weighted=False)
        >>> draws = jf.match_levels(done.samples, observed, rows[observed])
    """
    draws, observed, levels = np.asarray(draws), np.asarray(observed), np.asarray(levels)
    if not np.issubdtype(draws.dtype, np.floating):
        raise ValueError(f"expected draws of a floating dtype; got {draws.dtype}")
    if observed.dtype != np.bool_:
        raise ValueError(f"expected a boolean mask, True where observed; got dtype {observed.dtype}")
    each = draws.shape != observed.shape
    if each and (draws.ndim < 2 or draws.shape[:1] + draws.shape[2:] != observed.shape):
        raise ValueError(f"expected draws (n, *event) or (n, S, *event) of masks {observed.shape}; got {draws.shape}")
    if not levels.size or not np.all(np.isfinite(levels)):
        raise ValueError(f"expected finite levels of observed entries; got {'none' if not levels.size else 'others'}")
    hidden = ~np.broadcast_to(observed[:, None] if each else observed, draws.shape) & np.isfinite(draws)
    if not hidden.any():
        return draws
    shares = np.linspace(0.0, 1.0, _QUANTILES)
    mapped = np.interp(draws, np.quantile(draws[hidden], shares), np.quantile(levels, shares))
    return np.where(hidden, mapped.astype(draws.dtype), draws)
