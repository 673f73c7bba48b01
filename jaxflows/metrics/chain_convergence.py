"""Whether Markov chains have converged, and how many independent draws they are worth (Vehtari et al. 2021).

Every chain is cut into halves and the values are replaced by normal scores of their ranks among all M N of them,

    z = Phi^{-1}( (rank - 3/8) / (M N + 1/4) ),

so that neither needs moments to exist. With W the mean variance within the M half chains and B / N that of their means,

    R-hat = sqrt( ((N - 1)/N W + B/N) / W ),   the larger of z's and that of the scores of |value - median|
    ESS   = M N / tau,   tau = -1 + 2 sum_k P_k,   P_k = rho_{2k} + rho_{2k+1}

rho being the autocorrelation of all chains together; the sum ends at the first P_k <= 0 and P_k is made to fall (Geyer 1992).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


@jax.jit
def split_r_hat(values: jax.Array) -> jax.Array:
    """Rank-normalised split R-hat of each quantity; near 1 when the chains agree, and above 1.01 they do not yet.

    Args:
        values: (chains, draws, *shape), at least four draws.

    Returns:
        (*shape); NaN for a quantity that never changed, as that may be constant or stuck.
    """
    halves = _halves(values)
    folded = jnp.abs(halves - jnp.median(halves, axis=(0, 1)))
    return jnp.maximum(_r_hat(_scores(halves)), _r_hat(_scores(folded)))


@jax.jit
def bulk_ess(values: jax.Array) -> jax.Array:
    """Effective sample size for the middle of each quantity's distribution.

    Args:
        values: (chains, draws, *shape), at least four draws.

    Returns:
        (*shape), at most chains draws log10(chains draws), since antithetic chains may beat independent draws; NaN for a
        quantity that never changed.

    Cost: a Fourier transform of each chain.
    """
    z = _scores(_halves(values))
    chains, draws = z.shape[:2]
    centred = z - z.mean(axis=1, keepdims=True)
    spectrum = jnp.fft.rfft(centred, n=2 * draws, axis=1)
    covariances = jnp.mean(jnp.fft.irfft(jnp.abs(spectrum) ** 2, n=2 * draws, axis=1)[:, :draws], axis=0) / draws
    within, total = _variances(z)
    rho = 1.0 - (within - covariances) / total
    rho = rho.at[0].set(jnp.where(jnp.isnan(rho[0]), jnp.nan, 1.0))
    pairs = rho[0 : 2 * (draws // 2) : 2] + rho[1::2]
    kept = jnp.cumprod(pairs > 0, axis=0)
    tau = -1.0 + 2.0 * jnp.sum(kept * jax.lax.cummin(pairs, axis=0), axis=0)
    return chains * draws / jnp.maximum(tau, 1.0 / math.log10(chains * draws))


def _halves(values: jax.Array) -> jax.Array:
    if values.ndim < 2 or values.shape[1] < 4:
        raise ValueError(f"expected values of shape (chains, draws >= 4, *shape); got {values.shape}")
    half = values.shape[1] // 2
    return jnp.concatenate([values[:, :half], values[:, half : 2 * half]])


def _scores(values: jax.Array) -> jax.Array:
    """Normal scores of the ranks, ties sharing their mean rank."""
    pooled = values.reshape(values.shape[0] * values.shape[1], -1)

    def column(v: jax.Array) -> jax.Array:
        ordered = jnp.sort(v)
        rank = 0.5 * (jnp.searchsorted(ordered, v) + jnp.searchsorted(ordered, v, side="right") + 1)
        return jax.scipy.special.ndtri((rank - 0.375) / (v.size + 0.25)).astype(v.dtype)

    scores = jax.vmap(column, in_axes=1, out_axes=1)(pooled)
    # a rank needs an order: where there is none there is no score
    scores = jnp.where(jnp.isnan(pooled).any(axis=0), jnp.nan, scores)
    return scores.reshape(values.shape)


def _variances(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean variance within chains, and the estimate of the whole that adds the variance between them."""
    draws = z.shape[1]
    within = jnp.mean(jnp.var(z, axis=1, ddof=1), axis=0)
    return within, within * (draws - 1) / draws + jnp.var(jnp.mean(z, axis=1), axis=0, ddof=1)


def _r_hat(z: jax.Array) -> jax.Array:
    within, total = _variances(z)
    return jnp.sqrt(total / within)
