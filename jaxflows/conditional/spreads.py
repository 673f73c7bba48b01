"""Linear maps S from normal numbers to the hidden subspace, S S^T being about the covariance of a conditional.

Of a Gaussian with covariance C = L L^T = P^{-1}, with C_OO, (K_O, K_O), the observed block of C and P_HH, (K, K), the hidden
block of P, the conditional covariance has two such roots,

    S = P_H^T R^{-T},  R R^T = P_HH                            of K numbers,
    S = P_H (I - C P_O^T C_OO^{-1} P_O) L                      of d numbers,

the second being Matheron's rule without its mean. Each costs the factorisation of one block, and the smaller is taken. Of
C = s^2 (V V^T + I) with V of r columns, probabilistic principal components, there is a third, of r + d numbers, for a
factorisation of r x r whatever was observed:

    S = s P_H (V R^{-T}, I),  R R^T = I + V^T P_O V.

Source: Journel and Huijbregts 1978 for the second; Tipping and Bishop 1999 for the third's Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.conditional.hidden import Hidden, hidden, hidden_block
from jaxflows.observation import Observation


class Moments(NamedTuple):
    """Mean and covariance of events, with what is made of them once.

    Attributes:
        mean: mu, (*event,).
        covariance: C, (d, d), of flattened events.
        factor: L, lower triangular, C = L L^T.
        precision: P = C^{-1}.
        evaluations: block evaluations spent on them.
    """

    mean: jax.Array
    covariance: jax.Array
    factor: jax.Array
    precision: jax.Array
    evaluations: jax.Array


def moments_of(mean: jax.Array, covariance: jax.Array, evaluations: jax.Array | int = 0) -> Moments:
    """Factorise a positive definite covariance (d, d) of events shaped like ``mean``. Cost: O(d^3)."""
    factor = jnp.linalg.cholesky(covariance)
    precision = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(covariance), dtype=covariance.dtype))
    return Moments(mean, covariance, factor, precision, jnp.asarray(evaluations, jnp.int32))


class Principal(NamedTuple):
    """A Gaussian of few directions: mean mu (*event,), C = s^2 (V V^T + I).

    Attributes:
        mean: mu.
        directions: V, (d, r), of orthogonal columns.
        scale: s.
    """

    mean: jax.Array
    directions: jax.Array
    scale: jax.Array


def principal_of(mean: np.ndarray, covariance: np.ndarray, rank: int, dtype: Any) -> Principal:
    """The leading ``rank`` < d components of a positive definite covariance; of the others s^2 is the mean variance.

    Cost: O(d^3), on the host.
    """
    variances, vectors = np.linalg.eigh(np.asarray(covariance, float))
    rest = variances[:-rank].mean()
    directions = vectors[:, -rank:] * np.sqrt(np.maximum(variances[-rank:] / rest - 1.0, 0.0))
    return Principal(jnp.asarray(mean, dtype), jnp.asarray(directions, dtype), jnp.asarray(np.sqrt(rest), dtype))


class Spread(NamedTuple):
    """S of ONE observation; functions, to be used in the program that made them.

    Attributes:
        size: how many normal numbers it takes.
        push: ``r -> S r``, (size,) to (*event,), in the hidden subspace.
        pull: ``v -> S^T v``, (*event,) to (size,).
    """

    size: int
    push: Callable[[jax.Array], jax.Array]
    pull: Callable[[jax.Array], jax.Array]


def hidden_spread(where: Hidden, matrix: jax.Array) -> Spread:
    """S of the coordinates of a hidden subspace: ``matrix`` (K, K), whose unused slots do not count."""
    matrix = jnp.where(where.used[:, None] & where.used[None, :], matrix, 0.0)
    return Spread(len(matrix), lambda r: where.expand(matrix @ r), lambda v: matrix.T @ where.compress(v))


def conditional_spread(
    moments: Moments | Principal, observation: Observation, max_hidden: int | None = None, max_observed: int | None = None
) -> Spread:
    """S with S S^T the conditional covariance of what is hidden under a Gaussian.

    Args:
        moments: of the events.
        observation: what is seen of one; may be traced.
        max_hidden, max_observed: static bounds on the coordinates hidden and observed; the event's size when None.

    Cost: O(b^3), b the smaller of the bounds, and O(d^2 b) for a rotation. Of S: O(b^2), and of the second kind O(d^2), in
    products with matrices that all observations share. Of principal components O(r^3 + d r^2), of S O(r^2 + d r).
    """
    if isinstance(moments, Principal):
        return _principal_spread(moments, observation)
    size = moments.mean.size
    unseen, seen = (size if most is None else max(1, most) for most in (max_hidden, max_observed))
    if unseen <= seen:
        where = hidden(observation, unseen)
        inverse = _inverse_root(_block(where, moments.precision))
        return hidden_spread(where, inverse.T)
    where = hidden(observation.complement(), seen)
    root = _inverse_root(_block(where, moments.covariance))

    def solved(v: jax.Array) -> jax.Array:
        """P_O^T C_OO^{-1} P_O v, flattened."""
        return where.expand(root.T @ (root @ where.compress(v))).reshape(-1)

    def push(r: jax.Array) -> jax.Array:
        u = (moments.factor @ r).reshape(moments.mean.shape)
        return observation.hidden_part(u - (moments.covariance @ solved(u)).reshape(u.shape))

    def pull(v: jax.Array) -> jax.Array:
        v = observation.hidden_part(v)
        drawn = (moments.covariance @ v.reshape(-1)).reshape(v.shape)
        return moments.factor.T @ (v.reshape(-1) - solved(drawn))

    return Spread(size, push, pull)


def gaussian_event(key: jax.Array, moments: Moments | Principal) -> jax.Array:
    """A draw of the Gaussian, (*event,)."""
    mean = moments.mean
    if isinstance(moments, Principal):
        size, rank = moments.directions.shape
        normal = jax.random.normal(key, (rank + size,), mean.dtype)
        return mean + moments.scale * (moments.directions @ normal[:rank] + normal[rank:]).reshape(mean.shape)
    return mean + (moments.factor @ jax.random.normal(key, (mean.size,), mean.dtype)).reshape(mean.shape)


def gaussian_completion(
    moments: Moments | Principal, observation: Observation, spread: Spread, known: jax.Array, event: jax.Array
) -> jax.Array:
    """Matheron's rule: P_O known + P_H event, shifted by what a Gaussian of these moments makes of known - event.

        y = known + P_H event - S S^T P P_O (known - event)

    A draw of the Gaussian becomes one of its conditional, its mean that of the conditional.

    Args:
        moments, spread: the Gaussian, and its `conditional_spread` for this observation.
        observation: what was seen.
        known: P_O y*.
        event: (*event,).
    """
    lacking = observation.observed_part(known - event).reshape(-1)
    if isinstance(moments, Principal):
        told = (lacking @ moments.directions) / (1.0 + jnp.sum(moments.directions**2, axis=0))
        push = (lacking - moments.directions @ told) / moments.scale**2
    else:
        push = moments.precision @ lacking
    return known + observation.hidden_part(event) - spread.push(spread.pull(push.reshape(known.shape)))


def _principal_spread(moments: Principal, observation: Observation) -> Spread:
    shape, (size, rank) = moments.mean.shape, moments.directions.shape
    seen = jax.vmap(lambda v: observation.observed_part(v.reshape(shape)).reshape(-1))(moments.directions.T)
    root = _inverse_root(jnp.eye(rank, dtype=seen.dtype) + seen @ moments.directions)

    def push(r: jax.Array) -> jax.Array:
        moved = moments.directions @ (root.T @ r[:rank]) + r[rank:]
        return moments.scale * observation.hidden_part(moved.reshape(shape))

    def pull(v: jax.Array) -> jax.Array:
        v = moments.scale * observation.hidden_part(v).reshape(-1)
        return jnp.concatenate([root @ (v @ moments.directions), v])

    return Spread(rank + size, push, pull)


def _block(where: Hidden, matrix: jax.Array) -> jax.Array:
    """The block of a symmetric (d, d) matrix in the coordinates of ``where``, bordered by an identity in unused slots."""
    shape = where.observation.observed.shape
    # the columns that belong to the subspace, then their rows in its coordinates
    columns = jax.vmap(where.compress)(matrix.reshape(-1, *shape)).T.reshape(-1, *shape)
    rotated = jax.vmap(where.observation.to_coordinates)(columns).reshape(len(columns), -1).T
    return hidden_block(where, rotated)


def _inverse_root(block: jax.Array) -> jax.Array:
    """R^{-1} with R R^T the block, R lower triangular."""
    identity = jnp.eye(len(block), dtype=block.dtype)
    return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(block), identity, lower=True)
