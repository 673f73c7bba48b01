"""Estimators of log|det(I + J)| for a residual map u + h(u), J = dh/du of Lipschitz constant below one.

    log det(I + J) = sum_{k>=1} (-1)^{k+1}/k tr J^k                                   (Behrmann et al. 2019, Eq. 4)
    d log det(I + J) = tr( sum_{k>=0} (-J)^k dJ )                                     (Chen et al. 2019, Thm. 2)

All traces are Hutchinson estimates over probes v with E[v v^T] = I. The value and its gradient come from one pass over
w_k = (J^T)^k v, with nothing stored per term: memory is constant in the number of terms. The rule is a `jax.custom_jvp`
on one example, so under `vmap` every example keeps its own cotangent (weighted losses are right).

An estimator is a function ``(key, h, lipschitz, params, u) -> LogDet`` made by one of the factories below;
``h(params, u)`` is the residual network and ``lipschitz`` its certified constant. VALUES and gradients estimate the
same quantity.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import LogDet
from jaxflows.factory import factory
from jaxflows.for_each_key import for_each_key
from jaxflows.log_det.jacobian import exact_log_det
from jaxflows.recomputation import kept

Network = Callable[[Any, jax.Array], jax.Array]
Estimator = Callable[..., LogDet]
Tail = Callable[[jax.Array], jax.Array]
Draw = tuple[jax.Array, jax.Array]


@factory
def exact() -> Estimator:
    """The exact log-determinant by the full Jacobian: for d up to about a thousand, and for tests."""

    def estimate(key: jax.Array, h: Network, lipschitz: float, params: Any, u: jax.Array) -> LogDet:
        del key, lipschitz
        return LogDet.exact(exact_log_det(lambda t: t + h(params, t), u))

    return estimate


def rademacher(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Independent signs, the probe of least variance for a trace among those with independent entries."""
    return jax.random.rademacher(key, shape, dtype)


def gaussian(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Standard normal probes."""
    return jax.random.normal(key, shape, dtype)


PROBES = {"rademacher": rademacher, "gaussian": gaussian}


def truncation_bound(lipschitz: float, size: int, terms: int, dtype: Any) -> jax.Array:
    """Certified |sum of the terms left out| <= d ( -log(1 - s) - sum_{k<=n} s^k / k ), s = Lip(h), d = size."""
    # in float64 on the host: the difference of two nearly equal numbers, with room for its rounding
    s, k = float(lipschitz), np.arange(1, terms + 1)
    whole = -np.log1p(-s)
    difference = whole - np.sum(s**k / k) + 8 * np.finfo(np.float64).eps * whole
    # for very many terms the geometric bound is the tighter one
    return jnp.asarray(size * min(difference, s ** (terms + 1) / ((terms + 1) * (1.0 - s))), dtype)


def _series(h: Network, tail: Tail, params: Any, u: jax.Array, draw: Draw) -> tuple[jax.Array, jax.Array]:
    """The series' value, and the vector w whose form w^T J(params, u) probe has the series' gradient."""
    probe, last = draw
    _, pull_back = jax.vjp(lambda t: h(params, t), u)

    def unfinished(carry: Any) -> jax.Array:
        return carry[0] <= last

    def body(carry: Any) -> Any:
        k, w, value, weighted = carry
        # term k of the value and term k - 1 of the gradient's Neumann series share their chance P(N >= k) of being met
        coefficient = jnp.where(k % 2 == 1, 1.0, -1.0).astype(u.dtype) / tail(k).astype(u.dtype)
        weighted = weighted + coefficient * w
        w = pull_back(w)[0]
        value = value + coefficient / k.astype(u.dtype) * jnp.vdot(w, probe)
        return k + 1, w, value, weighted

    one = jnp.ones((), jnp.int32)
    carry = (one, probe, jnp.zeros((), u.dtype), jnp.zeros_like(probe))
    _, _, value, weighted = jax.lax.while_loop(unfinished, body, carry)
    return value, weighted


# A rule for tangents, not cotangents: under `vmap` the cotangent of parameters shared by a batch is then one matrix
# product with the batch summed inside; a `custom_vjp` would write out a copy of all parameters per example first.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _trace_series(h: Network, tail: Tail, params: Any, u: jax.Array, draw: Draw) -> jax.Array:
    return _series(h, tail, params, u, draw)[0]


@_trace_series.defjvp
def _trace_series_jvp(h: Network, tail: Tail, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    params, u, draw = primals
    value, weighted = kept(_series(h, tail, params, u, draw))

    def bilinear(params: Any, u: jax.Array) -> jax.Array:
        return jnp.vdot(weighted, jax.jvp(lambda t: h(params, t), (u,), (draw[0],))[1])

    return value, jax.jvp(bilinear, (params, u), tangents[:2])[1]


def _mean_and_error(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    count = values.shape[0]
    spread = jnp.std(values, ddof=1) if count > 1 else jnp.full((), jnp.inf, values.dtype)
    return jnp.mean(values), jax.lax.stop_gradient(spread / jnp.sqrt(jnp.asarray(count, values.dtype)))


def _always_reached(k: jax.Array) -> jax.Array:
    return jnp.ones_like(k)


@factory
def power_series(*, terms: int = 10, probes: int = 1, probe: str = "rademacher") -> Estimator:
    """The truncated series with Hutchinson probes: small variance, a bias with a certified bound.

    Args:
        terms: n, terms kept.
        probes: independent probes averaged; two or more give a standard error.
        probe: 'rademacher' or 'gaussian'.

    Cost: ``probes * terms`` VJPs of h, and one JVP with its gradient when differentiated.
    """
    if terms < 1 or probes < 1:
        raise ValueError(f"expected terms >= 1 and probes >= 1; got {terms} and {probes}")
    draw_probe = _probe(probe)

    def estimate(key: jax.Array, h: Network, lipschitz: float, params: Any, u: jax.Array) -> LogDet:
        last = jnp.asarray(terms, jnp.int32)

        def one(k: jax.Array) -> jax.Array:
            return _trace_series(h, _always_reached, params, u, (draw_probe(k, u.shape, u.dtype), last))

        value, error = _mean_and_error(for_each_key(one, key, probes))
        return LogDet(value, error, truncation_bound(lipschitz, u.size, terms, u.dtype))

    return estimate


@factory
def russian_roulette(
    *, exact_terms: int = 4, continuation: float | None = None, probes: int = 1, probe: str = "rademacher"
) -> Estimator:
    """The unbiased series: after ``exact_terms`` terms each further one is reached with chance ``continuation``.

    Term k is divided by P(N >= k) = q^max(0, k - exact_terms). The variance is finite in the worst case exactly when
    Lip(h)^2 < q; the default q = (1 + Lip(h)^2)/2 keeps that true. (The usual q = 0.5 fails above Lip(h) = 0.71.)

    Args:
        exact_terms: terms always taken.
        continuation: q in (0, 1); None for the default.
        probes: independent (probe, N) pairs averaged; two or more give a standard error.
        probe: 'rademacher' or 'gaussian'.

    Cost: ``probes * (exact_terms + q / (1 - q))`` VJPs in the mean; memory does not grow with the terms drawn.

    References: Chen et al. 2019, Residual Flows, Theorems 1 and 2.
    """
    if exact_terms < 1 or probes < 1:
        raise ValueError(f"expected exact_terms >= 1 and probes >= 1; got {exact_terms} and {probes}")
    if continuation is not None and not 0.0 < continuation < 1.0:
        raise ValueError(f"expected 0 < continuation < 1; got {continuation}")
    draw_probe = _probe(probe)

    def estimate(key: jax.Array, h: Network, lipschitz: float, params: Any, u: jax.Array) -> LogDet:
        q = (1.0 + lipschitz**2) / 2.0 if continuation is None else continuation
        tail = _geometric_tail(exact_terms, q)

        def one(k: jax.Array) -> jax.Array:
            k_probe, k_stop = jax.random.split(k)
            extra = jnp.floor(jnp.log(jax.random.uniform(k_stop, minval=1e-30)) / jnp.log(q)).astype(jnp.int32)
            return _trace_series(h, tail, params, u, (draw_probe(k_probe, u.shape, u.dtype), exact_terms + extra))

        value, error = _mean_and_error(for_each_key(one, key, probes))
        return LogDet(value, error, jnp.zeros_like(value))

    return estimate


@functools.cache
def _geometric_tail(exact_terms: int, q: float) -> Callable[[jax.Array], jax.Array]:
    def tail(k: jax.Array) -> jax.Array:
        return q ** jnp.maximum(k - exact_terms, 0).astype(jnp.result_type(float))

    return tail


def _probe(name: str) -> Callable[..., jax.Array]:
    if name not in PROBES:
        raise ValueError(f"expected a probe of {sorted(PROBES)}; got {name!r}")
    return PROBES[name]
