"""The Gaussian that a fit's own draws and gradients tell of.

For a Gaussian q and any target p the best member of all Gaussians has (Opper and Archambeau 2009)

    E_q[ grad log p ] = 0,      precision = -E_q[ Hessian of log p ],

and by Stein's identity E_q[Hessian] is the slope of the linear regression of grad log p on the draws. A fit has both at hand:
draws eta, and gradients with respect to them on their way to the parameters. The reference already explains -eta of
grad log p, and what is regressed, with a ridge that takes it to be none, is the rest of the score:

    r = grad log p(eta) + eta ~ c + B eta,      precision = I - B,  mean = precision^{-1} c.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# least and largest eigenvalue of the precision that a regression is believed; those of the reference are 1
LEAST, LARGEST = 0.1, 10.0


class ScoreMoments(NamedTuple):
    """Sums over draws eta and rests r of their scores, both (K,) and zero in unused slots.

    Attributes:
        draws: how many.
        eta, rest: (K,).
        eta_eta: (K, K), of eta eta^T.
        rest_eta: (K, K), of r eta^T.
    """

    draws: jax.Array
    eta: jax.Array
    rest: jax.Array
    eta_eta: jax.Array
    rest_eta: jax.Array


def score_moments(eta: jax.Array, rest: jax.Array, valid: jax.Array) -> ScoreMoments:
    """Sums over a batch of draws.

    Args:
        eta, rest: (S, K).
        valid: (S,), draws to count; one whose rest is not finite is left out too.
    """
    valid = valid & jnp.all(jnp.isfinite(rest), axis=-1)
    eta, rest = (jnp.where(valid[:, None], part, 0.0) for part in (eta, rest))
    return ScoreMoments(jnp.sum(valid, dtype=eta.dtype), eta.sum(0), rest.sum(0), eta.T @ eta, rest.T @ eta)


def implied_gaussian(moments: ScoreMoments, used: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean (K,) and precision (K, K), the identity in unused slots, of the Gaussian that the moments tell of.

    The ridge weighs as much as two draws a used slot. Cost: K^3.
    """
    size = jnp.sum(used)
    count = jnp.maximum(moments.draws, 1.0)
    eta, rest = moments.eta / count, moments.rest / count
    spread = moments.eta_eta - count * jnp.outer(eta, eta)
    identity = jnp.eye(used.size, dtype=spread.dtype)
    slope = jnp.linalg.solve(spread + 2.0 * size * identity, (moments.rest_eta - count * jnp.outer(rest, eta)).T).T
    values, directions = jnp.linalg.eigh(identity - 0.5 * (slope + slope.T))
    values = jnp.clip(values, LEAST, LARGEST)
    offset = rest - slope @ eta
    return directions @ ((directions.T @ offset) / values), (directions * values) @ directions.T
