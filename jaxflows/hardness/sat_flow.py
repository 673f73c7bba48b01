"""A coupling flow whose conditional samples solve a formula (Composing Normalizing Flows, supplement, Appendix A).

The event is (x_1, .., x_d, y), and from latent to data the flow is additive: x stays and y = z + f_M(x). The network f_M has
three hidden ReLU layers. With the hat delta_eps(t) = max(0, 1 - |t - 1| / eps), each made of three ReLUs,

    xt_i = delta_eps(x_i) - delta_eps(-x_i)                      1 at x_i = 1, -1 at x_i = -1, 0 away from both
    c_j  = sum over the 2^k - 1 assignments a that satisfy clause j of  delta_eps( (1/k) sum_{i in j} a_i xt_i )
    f_M  = M ReLU( sum_j c_j - (m - 1) )

f_M is M at every satisfying assignment and 0 wherever x is not within eps of one, so that, for M large enough, x given y = M
is near a satisfying assignment almost surely.

Which eps. As |xt_i| <= 1, one entry with a_i xt_i <= 0 leaves the mean of a clause's k entries at most 1 - 1/k, where the hat
is zero if and only if eps <= 1/k. Then x_i far from both -1 and 1, or on the wrong side, silences every neuron it enters with
that sign; two assignments differ in some a_i, so at most one neuron of a clause is active, and c_j <= 1. Both statements the
proof needs hold for eps <= 1/k and fail above: the supplement's eps < 1/3 is the case k = 3.

Which radius. |x_i - a_i| <= r for all i leaves a_i xt_i >= 1 - r / eps and c_j >= 1 - r / eps^2, hence
f_M >= M (1 - m r / eps^2): at least M / 2 within r = eps^2 / (2m), not within the 1/(2m) printed, where f_M can be 0. The
order of the supplement's bound is the same. What it needs of M is also at least of the order sqrt(d log m), where O() is
printed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.adapters.functions import from_functions
from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.hardness.formula import Formula


def default_epsilon(formula: Formula) -> float:
    """The largest power of two that is at most 1/k: with it f_M is exactly M at satisfying assignments, in floats too."""
    return 2.0 ** -math.ceil(math.log2(max(1, formula.width)))


def _hat(t: jax.Array, epsilon: float) -> jax.Array:
    """delta_eps(t) by three ReLUs. Far from 1 their sum cancels to within rounding, |t| 1e-7 / eps in float32, not to 0."""
    rectified = jax.nn.relu
    return (rectified(t - (1 - epsilon)) - 2 * rectified(t - 1) + rectified(t - (1 + epsilon))) / epsilon


def sat_network(formula: Formula, epsilon: float | None = None) -> Callable[[jax.Array], jax.Array]:
    """f_1 of the module's head: ``x -> ReLU(sum_j c_j - (m - 1))`` for one x of shape (d,), a number in [0, 1].

    Args:
        formula: with at least one clause.
        epsilon: half-width of the hats, in (0, 1/k]; `default_epsilon` when None.

    Raises:
        ValueError: no clauses, or an epsilon out of range.

    Cost: 6 d, then 3 sum_j (2^k_j - 1), then 1 hidden units; a product with a dense matrix of d sum_j (2^k_j - 1) entries.
    """
    if not formula.clauses:
        raise ValueError("expected a formula with a clause that is not always true; got none")
    eps = default_epsilon(formula) if epsilon is None else epsilon
    if not 0 < eps <= 1 / formula.width:
        raise ValueError(f"expected 0 < epsilon <= 1/{formula.width}, one over the widest clause; got {eps}")
    neurons, widths = [], []
    for clause in formula.clauses:
        places = [abs(literal) - 1 for literal in clause]
        for signs in itertools.product((-1, 1), repeat=len(clause)):
            if any(sign * literal > 0 for sign, literal in zip(signs, clause, strict=True)):
                row = np.zeros(formula.variables, np.int8)
                row[places] = signs
                neurons.append(row)
                widths.append(len(clause))
    matrix, counts, others = np.stack(neurons), np.array(widths), len(formula.clauses) - 1

    def network(x: jax.Array) -> jax.Array:
        tilde = _hat(x, eps) - _hat(-x, eps)
        # divided after the sum, which makes the mean of k ones exactly 1
        means = jnp.matmul(jnp.asarray(matrix, x.dtype), tilde, precision="highest") / jnp.asarray(counts, x.dtype)
        return jax.nn.relu(jnp.sum(_hat(means, eps)) - others)

    return network


def sufficient_magnitude(formula: Formula, epsilon: float | None = None, *, failure: float = 1e-3) -> float:
    """M with which x given y = M is near a satisfying assignment with probability at least 1 - ``failure``.

    With X_A the points within epsilon of a satisfying assignment, which is assumed to exist, r = eps^2 / (2m) and phi the
    normal density, p(y = M | x) is phi(M) outside X_A and at least phi(M/2) within r of it, so that

        P(not X_A | y = M) <= exp(-M^2/2) / ( exp(-M^2/8) (2 r phi(1 + r))^d ) = failure.

    Args:
        formula: with at least one clause; d counts the variables that occur.
        epsilon: as in `sat_network`.
        failure: in (0, 1).
    """
    if not 0 < failure < 1:
        raise ValueError(f"expected a failure probability between 0 and 1; got {failure}")
    eps = default_epsilon(formula) if epsilon is None else epsilon
    radius = eps**2 / (2 * max(1, len(formula.clauses)))
    log_mass = math.log(2 * radius) - 0.5 * (1 + radius) ** 2 - 0.5 * math.log(2 * math.pi)
    return math.sqrt(8 / 3 * (-math.log(failure) - int(formula.used.sum()) * log_mass))


def sat_flow(formula: Formula, *, epsilon: float | None = None, magnitude: float | None = None) -> tuple[Flow, Params]:
    """The flow of the module's head on events (x_1, .., x_d, y); from data to latent, z = y - f_M(x).

    Args:
        formula: with at least one clause.
        epsilon: as in `sat_network`.
        magnitude: M; `sufficient_magnitude` when None.

    Returns:
        ``(flow, {"magnitude": M})``. Observe the last entry as M and every draw of the rest should be near a satisfying
        assignment: `near_assignment` with `jaxflows.hardness.formula.satisfies` says whether it is.

    Raises:
        ValueError: as `sat_network`.

    References:
        Whang, Lindgren, Dimakis, Composing Normalizing Flows for Inverse Problems (ICML 2021), supplement, Appendix A.

    Example:
        >>> from jaxflows.hardness import formula, sat_flow
        >>> flow, params = sat_flow(formula(2, [(1, 2), (-1, 2)]), magnitude=8.0)
        >>> flow.encode(params, [-1.0, 1.0, 8.0]).tolist()
        [-1.0, 1.0, 0.0]
    """
    network = sat_network(formula, epsilon)
    chosen = sufficient_magnitude(formula, epsilon) if magnitude is None else magnitude

    def shift(params: Params, x: jax.Array) -> jax.Array:
        return params["magnitude"] * network(x)

    def encode(params: Params, y: jax.Array) -> jax.Array:
        y = jnp.asarray(y)
        return y.at[-1].add(-shift(params, y[:-1]))

    def decode(params: Params, x: jax.Array) -> jax.Array:
        return x.at[-1].add(shift(params, x[:-1]))

    def log_det(params: Params, y: jax.Array) -> jax.Array:
        del params
        return jnp.zeros((), y.dtype)

    return from_functions((formula.variables + 1,), encode, decode, log_det, params={"magnitude": jnp.asarray(chosen)})


def near_assignment(formula: Formula, x: Any, epsilon: float | None = None) -> np.ndarray:
    """Whether every variable that occurs is within epsilon of -1 or 1, (...,) for x of shape (..., d)."""
    eps = default_epsilon(formula) if epsilon is None else epsilon
    return np.all((np.abs(np.abs(np.asarray(x)) - 1) < eps) | ~formula.used, axis=-1)
