"""Variational posteriors q(x_hidden): Gauss-Newton, mean field, Householder (IVCNF Sec. 3.5, Eq. 11) and full rank.

Every posterior is written in the coordinates eta of a `Reference`, x_free = mean + scale eta:

    start="gauss_newton"   eta is the whitened variable of the Gauss-Newton posterior (the default)
    start="prior"          eta = x_free

and starts at eta ~ N(0, I). A family is the trainable map from eps ~ N(0, I) to eta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.conditional.gauss_newton import Reference, gauss_newton_reference, prior_reference
from jaxflows.conditional.hidden import Hidden
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.precision import full_precision

STARTS = ("gauss_newton", "prior")


class Posterior(NamedTuple):
    """A family of densities on the hidden slots, (K,); unused slots are kept at zero and out of every density.

    Attributes:
        name: for reports.
        start: 'gauss_newton' or 'prior', the reference.
        init: ``(key, size) -> theta``, giving eta ~ N(0, I).
        transform: ``(theta, used, eps) -> eta``.
        log_prob: ``(theta, used, eta) -> log q(eta)``.
        learning_rate: of Adam, which moves every entry of theta by about as much a step: the more entries stand behind one of
            eta, the smaller.
        nearest: ``(used, mean, precision) -> theta``, the member nearest to the Gaussian of that mean, (K,), and precision,
            (K, K) and the identity in unused slots; None for a family that has nothing to train.
    """

    name: str
    start: str
    init: Callable[[jax.Array, int], Any]
    transform: Callable[[Any, jax.Array, jax.Array], jax.Array]
    log_prob: Callable[[Any, jax.Array, jax.Array], jax.Array]
    learning_rate: float = 3e-2
    nearest: Callable[[jax.Array, jax.Array, jax.Array], Any] | None = None


@full_precision
def reference(
    posterior: Posterior, flow: Flow, params: Params, where: Hidden, y_observed: jax.Array, partition: str
) -> Reference:
    """The reference the posterior is written in, for one observation. It is held: no gradient passes through the search."""
    problem = jax.lax.stop_gradient((params, where, y_observed))
    if posterior.start == "prior":
        return prior_reference(flow, *problem, partition)
    return gauss_newton_reference(flow, *problem, partition)


def is_anchored(posterior: Posterior, start: Reference) -> bool:
    """Whether the reference linearised the flow, so that its ``inverse`` is one."""
    return posterior.start == "gauss_newton" or start.rotation is not None


def hidden_normal_log_prob(used: jax.Array, eps: jax.Array) -> jax.Array:
    """log N(eps; 0, I) over the used slots."""
    return -0.5 * jnp.sum(jnp.where(used, eps**2 + math.log(2 * math.pi), 0.0))


def _check_start(start: str) -> None:
    if start not in STARTS:
        raise ValueError(f"expected start to be one of {sorted(STARTS)}; got {start!r}")


@factory
def gauss_newton(*, start: str = "gauss_newton") -> Posterior:
    """eta = eps: the reference itself, nothing to train. With ``start='prior'`` the prior as q."""
    _check_start(start)
    return Posterior(
        name="gauss_newton" if start == "gauss_newton" else "prior",
        start=start,
        init=lambda key, size: (),
        transform=lambda theta, used, eps: eps,
        log_prob=lambda theta, used, eta: hidden_normal_log_prob(used, eta),
    )


def prior() -> Posterior:
    """The prior N(0, I) on x_hidden as q: the paper's starting point, and a baseline."""
    return gauss_newton(start="prior")


@factory
def mean_field(*, start: str = "gauss_newton") -> Posterior:
    """eta = mu + diag(sigma) eps (IVCNF Appendix C)."""
    family = householder(num_reflections=0, start=start)
    return family._replace(name="mean_field")


@factory
def householder(*, num_reflections: int = 20, start: str = "gauss_newton") -> Posterior:
    """eta = mu + H_1 ... H_n diag(sigma) eps, H_i = I - 2 v_i v_i^T / |v_i|^2 (IVCNF Eq. 11).

    The vectors v_i are cut to the hidden slots, so the reflections stay inside the hidden subspace. With sigma = 1 at the
    start the reflections cancel from the density, and have no gradient: `fit_posterior` turns them to the principal directions
    that its first draws tell of. Any n orthonormal directions are images of axes under n reflections, those of their QR
    factorisation.

    Args:
        num_reflections: n; the paper takes 50 on CIFAR-10.
        start: 'gauss_newton' or 'prior'.

    Cost: 4 n K multiplications a sample.
    """
    _check_start(start)
    if num_reflections < 0:
        raise ValueError(f"expected num_reflections >= 0; got {num_reflections}")

    def init(key: jax.Array, size: int) -> Any:
        vectors = jax.random.normal(key, (num_reflections, size))
        return {"mu": jnp.zeros(size), "log_sigma": jnp.zeros(size), "vectors": vectors}

    def reflect(vectors: jax.Array, used: jax.Array, t: jax.Array, reverse: bool) -> jax.Array:
        def step(t: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
            v = jnp.where(used, v, 0.0)
            return t - 2.0 * v * (v @ t) / jnp.maximum(v @ v, jnp.finfo(v.dtype).tiny), None

        return jax.lax.scan(step, t, vectors, reverse=reverse)[0]

    def transform(theta: Any, used: jax.Array, eps: jax.Array) -> jax.Array:
        # H_1 acts last
        eta = theta["mu"] + reflect(theta["vectors"], used, jnp.exp(theta["log_sigma"]) * eps, reverse=True)
        return jnp.where(used, eta, 0.0)

    def log_prob(theta: Any, used: jax.Array, eta: jax.Array) -> jax.Array:
        centred = jnp.where(used, eta - theta["mu"], 0.0)
        eps = reflect(theta["vectors"], used, centred, reverse=False) * jnp.exp(-theta["log_sigma"])
        return hidden_normal_log_prob(used, eps) - jnp.sum(jnp.where(used, theta["log_sigma"], 0.0))

    def nearest(used: jax.Array, mean: jax.Array, precision: jax.Array) -> Any:
        size = used.size
        vectors = jnp.zeros((num_reflections, size), mean.dtype)
        if num_reflections:
            values, directions = jnp.linalg.eigh(precision)
            # those in which it is farthest from N(0, I), which needs no reflections
            far = jnp.argsort(-jnp.abs(jnp.log(values)))[:num_reflections]
            packed, _ = jnp.linalg.qr(directions[:, far], mode="raw")
            unit = jnp.triu(packed, 1) + jnp.eye(packed.shape[0], packed.shape[1], dtype=packed.dtype)
            # as long as the random ones of the start: the turn of a step of Adam depends on it
            vectors = vectors.at[: far.size].set(unit * jnp.sqrt(size / jnp.sum(unit**2, axis=1, keepdims=True)))
        axes = jax.vmap(lambda axis: reflect(vectors, used, axis, reverse=True))(jnp.eye(size, dtype=mean.dtype))
        # row j is H e_j; of all scales these have the least KL(q || p)
        log_sigma = -0.5 * jnp.log(jnp.einsum("ji,ik,jk->j", axes, precision, axes))
        return {"mu": jnp.where(used, mean, 0.0), "log_sigma": jnp.where(used, log_sigma, 0.0), "vectors": vectors}

    return Posterior(f"householder({num_reflections})", start, init, transform, log_prob, nearest=nearest)


@factory
def full_rank(*, start: str = "gauss_newton") -> Posterior:
    """eta = mu + L eps, L lower triangular with a positive diagonal: any Gaussian (Kucukelbir et al. 2017, full-rank ADVI).

    Args:
        start: 'gauss_newton' or 'prior'.

    Cost: K^2 numbers a row and K^2 multiplications a sample, small beside the solve.
    """
    _check_start(start)

    def init(key: jax.Array, size: int) -> Any:
        del key
        return {"mu": jnp.zeros(size), "log_diagonal": jnp.zeros(size), "lower": jnp.zeros((size, size))}

    def factor(theta: Any, used: jax.Array) -> jax.Array:
        lower = jnp.where(used[:, None] & used, jnp.tril(theta["lower"], -1), 0.0)
        return lower + jnp.diag(jnp.where(used, jnp.exp(theta["log_diagonal"]), 1.0))

    def transform(theta: Any, used: jax.Array, eps: jax.Array) -> jax.Array:
        return jnp.where(used, theta["mu"] + factor(theta, used) @ eps, 0.0)

    def log_prob(theta: Any, used: jax.Array, eta: jax.Array) -> jax.Array:
        centred = jnp.where(used, eta - theta["mu"], 0.0)
        eps = jax.scipy.linalg.solve_triangular(factor(theta, used), centred, lower=True)
        return hidden_normal_log_prob(used, eps) - jnp.sum(jnp.where(used, theta["log_diagonal"], 0.0))

    def nearest(used: jax.Array, mean: jax.Array, precision: jax.Array) -> Any:
        lower = jnp.linalg.cholesky(jnp.linalg.inv(precision))
        log_diagonal = jnp.where(used, jnp.log(jnp.diagonal(lower)), 0.0)
        return {"mu": jnp.where(used, mean, 0.0), "log_diagonal": log_diagonal, "lower": jnp.tril(lower, -1)}

    return Posterior("full_rank", start, init, transform, log_prob, learning_rate=5e-3, nearest=nearest)
