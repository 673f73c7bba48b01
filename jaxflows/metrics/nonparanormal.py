"""A Gaussian of entries that were each mapped first: the nonparanormal (Liu, Lafferty and Wasserman 2009), a Gaussian copula.

    u = S(y) entry by entry,   u ~ N(mean, C)

Grey levels gather at black and white. A Gaussian of theirs fills what is black with noise as wide as what is uncertain
elsewhere; behind a map that draws together what is rare it does not. S is a monotone spline
(`jaxflows.bijectors.spline.elementwise_spline`), found from rows with holes by greatest pseudo-likelihood (Besag 1975): the
conditional of every entry given those it goes with most, of a Gaussian of pairwise covariances,

    sum_j  mean log S'(y_j) - 1/2 log var(u_j | u_N(j)).

The marginals alone would ask for a map that makes each of them normal, and so blow up what is noise; this does not, since
noise is no better told by neighbours than by nothing.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows.bijectors.base import Bijector, Params
from jaxflows.bijectors.spline import elementwise_spline
from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.metrics.gaussian_em import flat_rows
from jaxflows.metrics.gaussian_pairs import fit_gaussian_pairs
from jaxflows.precision import full_precision

# levels of a grid on which S is known to the search, linear between them
LEVELS = 1024
# steps of Adam, and their size in parameters of the spline at first; it falls to 0
STEPS, RATE = 60, 8e-2
# pairwise correlations of n rows scatter by 1 / sqrt(n): so many times that is added to variances
SCATTER = 2.0
# rows mapped at a time
_AT_ONCE = 4096


class Nonparanormal(NamedTuple):
    """u = S(y) entry by entry is Gaussian.

    Attributes:
        front: S, of `jaxflows.bijectors.spline.elementwise_spline`.
        params: of S.
        gaussian: of u.
    """

    front: Bijector
    params: Params
    gaussian: Gaussian

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Of one event."""
        return self.gaussian.event_shape

    def to_gaussian(self, rows: Any) -> np.ndarray:
        """u = S(y) of rows (n, *event), in float32."""
        return _mapped(self.front, False, self.params, rows)

    def to_events(self, rows: Any) -> np.ndarray:
        """y = S^{-1}(u), likewise."""
        return _mapped(self.front, True, self.params, rows)

    def with_gaussian(self, gaussian: Gaussian) -> Nonparanormal:
        """The same S before another Gaussian, such as that of one class of rows."""
        return self._replace(gaussian=gaussian)


def fit_nonparanormal(
    rows: np.ndarray, observed: np.ndarray, *, front: Bijector | None = None, columns: int = 128, neighbours: int = 4,
    most_entries: int = 500_000, seed: int = 0,
) -> Nonparanormal:  # fmt: skip
    """Fit S and the Gaussian behind it to rows with holes.

    S is fitted to some columns, which follow each other in the middle of the flattened event, and to some rows, as the bounds
    say; the Gaussian to all, `jaxflows.metrics.fit_gaussian_pairs`, consistent where entries are missing at random (MCAR).

    Args:
        rows: (n, *event), finite where observed, with the noise that events have; anything where hidden.
        observed: (n, *event) boolean, True where observed.
        front: S, an `elementwise_spline`; one for grey levels in [0, 1] when None. Of one that has an S of its own for each
            entry only those of the columns looked at are fitted: let ``columns`` be all.
        columns: how many S is fitted to, at most.
        neighbours: N(j), how many entries tell of each.
        most_entries: observed ones that S is fitted to, at most.
        seed: of the choice of rows.

    Raises:
        ValueError: another front, bounds below 1, and what `fit_gaussian_pairs` refuses.

    Cost: 60 times O(n columns^2) with so many rows, then O(n d^2 + d^3).

    Example:
        >>> copula = jf.metrics.fit_nonparanormal(digits, observed)
        >>> filled = jf.gaussian_completions(key, copula, digits, observed)
        >>> flow = jf.flows.whitened_image(event_shape=(28, 28, 1), marginals=16, whitening="full")
        >>> model, report = jf.fit_by_moves(key, flow, digits, observed, gaussian=copula)
    """
    front = elementwise_spline() if front is None else front
    if '"bijector": "elementwise_spline"' not in front.spec:
        raise ValueError(f"expected an elementwise_spline before the Gaussian; got {front.spec}")
    if min(columns, neighbours, most_entries) < 1:
        raise ValueError(f"expected columns, neighbours and most_entries >= 1; got {columns}, {neighbours}, {most_entries}")
    values, mask = flat_rows(rows, observed)
    shape = np.shape(rows)[1:]
    params = front.init(jax.random.key(0), shape)
    window = slice(max(0, (values.shape[1] - columns) // 2), max(0, (values.shape[1] - columns) // 2) + columns)
    some = np.random.default_rng(seed).permutation(len(values))
    per_row = max(1e-9, float(mask[:, window].mean()) * mask[:, window].shape[1])
    some = some[: max(2, int(most_entries / per_row))]
    params = _fitted(front, params, shape, window, values[some, window], mask[some, window], neighbours)
    behind = _mapped(front, False, params, np.where(mask, values, 0.0).reshape(-1, *shape))
    return Nonparanormal(front, params, fit_gaussian_pairs(behind, mask.reshape(-1, *shape)))


def _mapped(front: Bijector, back: bool, params: Params, rows: Any) -> np.ndarray:
    """S, or its inverse, of rows (n, *event), some at a time."""
    rows = np.asarray(rows, np.float32)
    parts = [np.asarray(_map_some(front, back, params, rows[n : n + _AT_ONCE])) for n in range(0, len(rows), _AT_ONCE)]
    return np.concatenate(parts) if parts else rows


@functools.partial(jax.jit, static_argnums=(0, 1))
@full_precision
def _map_some(front: Bijector, back: bool, params: Params, rows: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: front.invert(params, row)[0] if back else front.transform(params, row))(rows)


def _fitted(
    front: Bijector,
    params: Params,
    shape: tuple[int, ...],
    window: slice,
    values: np.ndarray,
    mask: np.ndarray,
    neighbours: int,
) -> Params:
    """Parameters of S of greatest pseudo-likelihood of these columns."""
    numbers = params["numbers"]
    kinds = int(np.prod(numbers.shape[:-1]))
    # which S each column has
    kind = np.broadcast_to(np.arange(kinds).reshape(numbers.shape[:-1]), shape).reshape(-1)[window]
    seen = mask.astype(np.float32)
    pairs = seen.T @ seen
    at = np.flatnonzero(mask)
    y = values.reshape(-1)[at].astype(np.float32)
    low, high = float(y.min()), float(y.max())
    if not low < high:
        # what does not vary says nothing of S
        return params
    grid = np.linspace(low, high, LEVELS, dtype=np.float32)
    place = (y - low) / (high - low) * (LEVELS - 1)
    level = np.clip(place.astype(np.int32), 0, LEVELS - 2)
    column = at % mask.shape[1]
    index = kind[column] * LEVELS + level
    # of every S at every level, the share of the observed entries of a column that are there, summed over columns
    share = np.zeros((kinds, LEVELS), np.float32)
    counts = np.maximum(np.diagonal(pairs), 1.0)
    np.add.at(share, (kind[column], level), 1.0 / counts[column])
    filled = jnp.asarray(np.where(mask, values, 0.0), jnp.float32)
    first = np.asarray(_covariance(filled, jnp.asarray(seen), jnp.asarray(pairs)), np.float64)
    deviations = np.sqrt(np.maximum(np.diagonal(first), np.finfo(np.float32).tiny))
    correlation = np.abs(first) / np.outer(deviations, deviations)
    np.fill_diagonal(correlation, -1.0)
    nearest = np.argsort(-correlation, axis=1)[:, : min(neighbours, len(correlation) - 1)]
    group = np.concatenate([np.arange(len(nearest))[:, None], nearest], axis=1)
    scatter = SCATTER / float(np.sqrt(max(1.0, np.mean(pairs))))
    found: Params = _search(
        front, mask.shape, scatter, params,
        [jnp.asarray(array) for array in (grid, index, place - level, share, seen, pairs, at, group)],
    )  # fmt: skip
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
@full_precision
def _search(front: Bijector, size: tuple[int, int], scatter: float, params: Params, arrays: list[jax.Array]) -> Params:
    grid, index, part, share, seen, pairs, at, group = arrays

    def loss(params: Params) -> jax.Array:
        numbers = params["numbers"].reshape(-1, 1, params["numbers"].shape[-1])
        table = jax.vmap(lambda own: front.transform({"numbers": own}, grid))(numbers).reshape(-1)
        slope = jnp.diff(table.reshape(-1, LEVELS), axis=1) / jnp.diff(grid)
        u = table[index] * (1.0 - part) + table[index + 1] * part
        covariance = _covariance(jnp.zeros(size[0] * size[1]).at[at].set(u).reshape(size), seen, pairs)
        blocks = jax.vmap(lambda own: covariance[own][:, own])(group)
        variances = jnp.diagonal(blocks, axis1=1, axis2=2)
        blocks += jax.vmap(jnp.diag)(scatter * variances)
        told = jax.vmap(_explained)(blocks) if group.shape[1] > 1 else 0.0
        left = jnp.maximum(blocks[:, 0, 0] - told, scatter * variances[:, 0])
        rises = jnp.sum(share[:, :-1] * jnp.log(slope))
        return (0.5 * jnp.sum(jnp.log(left)) - rises) / len(group)

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, memory = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), memory), value

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
    return params


def _explained(block: jax.Array) -> jax.Array:
    """Of the first entry's variance, by the others."""
    return block[0, 1:] @ jnp.linalg.solve(block[1:, 1:], block[1:, 0])


def _covariance(filled: jax.Array, seen: jax.Array, pairs: jax.Array) -> jax.Array:
    """Pairwise, of rows that are zero where they were not seen."""
    mean = jnp.sum(filled * seen, axis=0) / jnp.maximum(jnp.diagonal(pairs), 1.0)
    centred = (filled - mean) * seen
    return centred.T @ centred / jnp.maximum(pairs, 1.0)
