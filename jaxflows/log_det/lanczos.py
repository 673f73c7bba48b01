"""Stochastic Lanczos quadrature for log|det A| of an operator known by its products alone.

    log|det A| = 1/2 tr log(A^T A) ~ 1/2 mean_v |v|^2 sum_i tau_i^2 log(theta_i)

over probes v with E[v v^T] = I: theta_i are the Ritz values of A^T A in the Krylov space of v, tau_i the first
entries of their vectors (Ubaru, Chen and Saad 2017). The Ritz values come from the Golub-Kahan bidiagonalisation of A
itself, whose singular values are their square roots: forming A^T A would halve the digits of the small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import LogDet
from jaxflows.for_each_key import for_each_key
from jaxflows.log_det.estimators import PROBES, truncation_bound

Operator = Callable[[jax.Array], jax.Array]


def stochastic_lanczos(
    matvec: Operator,
    rmatvec: Operator,
    shape: tuple[int, ...],
    key: jax.Array,
    *,
    steps: int = 20,
    probes: int = 8,
    condition: float | None = None,
    probe: str = "rademacher",
) -> LogDet:
    """Estimate log|det A| of a non-singular operator on events of ``shape``.

    Args:
        matvec: ``w -> A w``, event-shaped.
        rmatvec: ``w -> A^T w``, event-shaped.
        shape: the event's shape; a restricted operator P_H G P_H + P_O has the shape of the whole event.
        key: random key, used once.
        steps: m, Krylov dimension; more than the event's size d is never used.
        probes: independent probes averaged; two or more give a standard error.
        condition: c >= sigma_max(A) / sigma_min(A), certified; (1 + s)/(1 - s) for A = I + J with |J| <= s.
        probe: 'rademacher' or 'gaussian'.

    Returns:
        Value and standard error, both without gradient: differentiating raises ValueError (the gradient of the bound is
        CLADE's or NLADE's). ``truncation_bound`` is 0 when m = d, and with r = (c - 1)/(c + 1)

            2 d ( -log(1 - r) - sum_{k < 2m} r^k / k ),

        twice the best uniform error of a polynomial of degree 2m - 1 for log sigma, which Gauss quadrature integrates
        exactly; it holds in expectation over probes, and for every draw of signs. Infinite when ``condition`` is None.

    Cost: ``probes * steps`` products with A and as many with A^T, O(probes steps^2 d) for full reorthogonalisation, and
    the eigenvectors of a symmetric matrix of side 2 steps a probe.

    When: values of log|det G^HH| where d is too large for the Jacobian (above about a thousand), or A is far from the
    identity, so that the power series diverges. For A = I + J a step does what two terms of the series do.
    """
    if steps < 1 or probes < 1:
        raise ValueError(f"expected steps >= 1 and probes >= 1; got {steps} and {probes}")
    if condition is not None and not condition >= 1.0:
        raise ValueError(f"expected condition >= 1; got {condition}")
    if probe not in PROBES:
        raise ValueError(f"expected a probe of {sorted(PROBES)}; got {probe!r}")
    size = math.prod(shape)
    dtype = jax.eval_shape(matvec, jax.ShapeDtypeStruct(shape, jnp.result_type(float))).dtype
    count = min(steps, size)

    def one(k: jax.Array) -> jax.Array:
        start = PROBES[probe](k, shape, dtype).reshape(-1)
        forth, back = (lambda w, act=act: act(w.reshape(shape)).reshape(-1) for act in (matvec, rmatvec))
        values, weights = _ritz(_bidiagonalise(forth, back, start, count))
        # a direction the probe does not see has no say, even where A is singular in it
        unseen = weights <= (10 * jnp.finfo(dtype).eps) ** 2
        terms = jnp.where(unseen, 0.0, weights * jnp.log(jnp.where(unseen, 1.0, values)))
        return jnp.vdot(start, start) * jnp.sum(terms)

    with jax.default_matmul_precision("highest"):
        values = _value_only(for_each_key(one, key, probes))
    spread = jnp.std(values, ddof=1) if probes > 1 else jnp.full((), jnp.inf, dtype)
    return LogDet(jnp.mean(values), spread / math.sqrt(probes), _bound(size, count, condition, dtype))


def _bound(size: int, steps: int, condition: float | None, dtype: jnp.dtype) -> jax.Array:
    if steps == size:
        return jnp.zeros((), dtype)
    if condition is None:
        return jnp.full((), jnp.inf, dtype)
    return 2 * truncation_bound((condition - 1.0) / (condition + 1.0), size, 2 * steps - 1, dtype)


def _ritz(bidiagonal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Singular values of B, and the squared first entries of its right singular vectors: each value twice, of half the weight.

    From the eigenpairs (+-s, (+-u, v) / sqrt 2) of the matrix of blocks 0, B, B^T, 0, which loses no digits of small values.
    No SVD: on one core jaxlib 0.9 can wait for ever in a batch of them (docs/design.md).
    """
    nothing = jnp.zeros_like(bidiagonal)
    values, vectors = jnp.linalg.eigh(jnp.block([[nothing, bidiagonal], [bidiagonal.T, nothing]]))
    return jnp.abs(values), vectors[len(bidiagonal)] ** 2


def _bidiagonalise(forth: Operator, back: Operator, start: jax.Array, count: int) -> jax.Array:
    """Upper bidiagonal B with A V = U B, V's first column along ``start``, both bases reorthogonalised in full."""
    noise = 10 * jnp.finfo(start.dtype).eps

    def orthogonal(basis: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = raw - (basis @ raw) @ basis
        new = new - (basis @ new) @ basis
        size = jnp.linalg.norm(new)
        seen = size > noise * jnp.linalg.norm(raw)
        return jnp.where(seen, new / jnp.where(seen, size, 1.0), 0.0), jnp.where(seen, size, 0.0)

    def extend(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        left, right, matrix, new = carry
        right = right.at[i].set(new)
        u, alpha = orthogonal(left, forth(new))
        left = left.at[i].set(u)
        new, beta = orthogonal(right, back(u))
        # an exhausted Krylov space goes on with zero vectors; a one on the diagonal adds log 1 with no weight
        exhausted = ~jnp.any(right[i] != 0)
        matrix = matrix.at[i, i].set(jnp.where(exhausted, 1.0, alpha)).at[i, i + 1].set(beta, mode="drop")
        return left, right, matrix, new

    zeros = jnp.zeros((count, start.size), start.dtype)
    carry = (zeros, zeros, jnp.zeros((count, count), start.dtype), start / jnp.linalg.norm(start))
    return jax.lax.fori_loop(0, count, extend, carry)[2]


@jax.custom_jvp
def _value_only(values: jax.Array) -> jax.Array:
    return values


@_value_only.defjvp
def _refuse(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    raise ValueError(
        "expected stochastic_lanczos outside a gradient, or its operator's inputs under jax.lax.stop_gradient; "
        "got a derivative of its value, which it does not estimate"
    )
