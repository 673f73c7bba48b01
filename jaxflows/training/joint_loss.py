"""The loss of joint training on rows with holes: the bound of flow and amortised posterior, and a head's cross-entropy.

    minimise  -1/d E_rows L(q) + weight * cross-entropy
    L(q) = E_q[ log p0(x) + log|det G(y)| - log|det G^HH(y)| - log q(x_hidden) ]  <=  log p(y_observed)

Its gradient is that of CLADE or NLADE (`jaxflows.conditional.elbo`), whose own values mean nothing. The value reported takes
log|det G| - log|det G^HH| exactly where the event is small, and elsewhere as a stochastic estimate with one probe.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised, AmortisedDraw, amortised_draw
from jaxflows.conditional.elbo import GradientEstimator, log_det_gap
from jaxflows.conditional.hidden import Hidden, hidden
from jaxflows.flows import Flow
from jaxflows.for_each_key import for_each_key
from jaxflows.log_det.estimators import power_series
from jaxflows.log_det.lanczos import stochastic_lanczos
from jaxflows.networks.half_precision import HalfPrecision
from jaxflows.networks.prediction_head import head_loss, reads_events
from jaxflows.networks.self_masking import SelfMasking
from jaxflows.observation import mask
from jaxflows.precision import at_precision
from jaxflows.sharding import by_rows
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.krylov import restricted
from jaxflows.training.step import Noise

# events of at most this many entries have the values of their log-determinants taken exactly, a JVP an entry
EXACT_SIZE = 32

# terms of the power series and steps of Lanczos where values are estimated: in validation, and in the trace of training, where
# the value steers nothing and 20 would cost as much as the gradient
_TERMS, _TRAINING_TERMS = 20, 8


class IncompleteBatch(NamedTuple):
    """Some rows.

    Attributes:
        rows: (b, *event), finite.
        observed: (b, *event) boolean.
        labels: (b,) integers, -1 where unknown.
    """

    rows: jax.Array
    observed: jax.Array
    labels: jax.Array


def gap_value(key: jax.Array, flow: Flow, params: Params, where: Hidden, y: jax.Array, terms: int = _TERMS) -> jax.Array:
    """log|det G(y)| - log|det G^HH(y)| without gradient, exact for events of at most `EXACT_SIZE` entries.

    Of larger ones an estimate by ``terms`` terms of the power series and as many steps of Lanczos, a product with G a term
    and two a step.
    """
    params, y = jax.lax.stop_gradient((params, y))
    if flow.size <= EXACT_SIZE:
        return log_det_gap(flow, params, where, y)
    k_whole, k_hidden = jax.random.split(key)
    _, whole = flow.bijector.estimate(k_whole, power_series(terms=terms), params, y)
    push, pull = restricted(flow, params, where.observation, y)
    return whole.value - stochastic_lanczos(push, pull, y.shape, k_hidden, steps=terms, probes=1).value


def draw_rows(
    key: jax.Array,
    flow: Flow,
    params: Params,
    posterior: Amortised,
    batch: IncompleteBatch,
    *,
    solver: ConstraintSolver,
    num_samples: int,
    noise: Noise | None = None,
    log_det: Callable[[jax.Array, Params, Hidden, jax.Array], jax.Array],
    mesh: Mesh | None = None,
    parts: int = 1,
) -> AmortisedDraw:
    """``num_samples`` draws of every row, every leaf of shape (b, num_samples, ...).

    Args:
        key: of noise, draws and probes.
        flow, params, posterior: the model.
        batch: the rows; what stands in their holes is not used.
        solver: a `ConstraintSolver`.
        num_samples: draws a row.
        noise: ``(key, rows) -> rows``, entry by entry.
        log_det: ``(key, params, where, y) -> log|det G(y)| - log|det G^HH(y)|``.
        mesh: what rows are shared out over.
        parts: micro-batches that each device takes its rows in.
    """
    k_noise, k_rows = jax.random.split(key)
    rows = batch.rows if noise is None else noise(k_noise, batch.rows)

    network, *held = posterior

    def row(shared: Any, k: jax.Array, y: jax.Array, observed: jax.Array) -> AmortisedDraw:
        params, arrays = shared
        where = hidden(mask(observed))
        known = where.observation.observed_part(y)

        def one(k: jax.Array) -> AmortisedDraw:
            k_eps, k_trace = jax.random.split(k)
            eps = jax.random.normal(k_eps, y.shape, y.dtype)
            gap = lambda completed: log_det(k_trace, params, where, completed)  # noqa: E731
            return amortised_draw(eps, flow, params, Amortised(network, *arrays), known, observed, solver, gap)

        return for_each_key(one, k, num_samples)

    every = by_rows(lambda shared, some: jax.vmap(functools.partial(row, shared))(*some), mesh, parts)
    return every((params, held), (jax.random.split(k_rows, len(rows)), rows, batch.observed))


def joint_loss(
    flow: Flow,
    posterior: Amortised,
    *,
    estimator: GradientEstimator | None,
    solver: ConstraintSolver,
    num_samples: int,
    noise: Noise | None,
    head_weight: float,
    mesh: Mesh | None = None,
    parts: int = 1,
    precision: str | None = None,
) -> Callable[[jax.Array, Any, IncompleteBatch], dict[str, jax.Array]]:
    """``(key, params, batch) -> {"loss", "bound", "unconverged", "evaluations"[, "cross_entropy"]}``.

    A draw whose constraint was not solved has no part in loss and gradient, and is counted under "unconverged", a share.
    "bound" is the mean of L(q) / d, and "evaluations" the mean number of block evaluations of a solve.

    Args:
        flow: the flow.
        posterior: whose network, centre and spread are used; its parameters are an argument of the loss.
        estimator: of the gradient of log|det G| - log|det G^HH|; None for a loss without gradient, which costs less.
        solver: a `ConstraintSolver`.
        num_samples: draws a row.
        noise: as in `draw_rows`.
        head_weight: of the cross-entropy, in nats a row, beside the bound, in nats a dimension.
        mesh: what rows are shared out over.
        parts: micro-batches that each device takes its rows in.
        precision: of products outside of solves, as in `jaxflows.fit_incomplete`.

    The parameters are a dictionary of the "flow"'s, the "network"'s and, where there are any, the "head"'s and those of the
    model of the "mask", with which the bound is one on log p(y_observed, mask).
    """
    half = precision == "bfloat16"
    posterior = posterior._replace(network=HalfPrecision(posterior.network)) if half else posterior

    def log_det(k: jax.Array, params: Params, where: Hidden, y: jax.Array) -> jax.Array:
        k_value, k_gradient = jax.random.split(k)
        value = gap_value(k_value, flow, params, where, y, _TERMS if estimator is None else _TRAINING_TERMS)
        if estimator is None:
            return value
        surrogate = estimator(k_gradient, flow, params, where, y, None)
        return value + surrogate - jax.lax.stop_gradient(surrogate)

    def loss(key: jax.Array, params: Any, batch: IncompleteBatch) -> dict[str, jax.Array]:
        drawn = draw_rows(
            key, flow, params["flow"], posterior._replace(params=params["network"]), batch,
            solver=solver, num_samples=num_samples, noise=noise, log_det=log_det, mesh=mesh,
            parts=parts,
        )  # fmt: skip
        solved = drawn.info.converged
        log_weights = drawn.log_weight
        if "mask" in params:
            masking = SelfMasking(params["mask"], posterior.centre, posterior.spread)
            log_weights = log_weights + jax.vmap(jax.vmap(masking.log_prob, (0, None)))(drawn.y, batch.observed)
        bound = jnp.sum(jnp.where(solved, log_weights, 0.0)) / jnp.maximum(jnp.sum(solved), 1)
        losses = {
            "loss": -bound / flow.size,
            "bound": bound / flow.size,
            "unconverged": jnp.mean((~solved).astype(bound.dtype)),
            "evaluations": jnp.mean(drawn.info.evaluations.astype(bound.dtype)),
        }
        if "head" in params:
            labels = jnp.repeat(batch.labels, num_samples)
            t = drawn.y.reshape(-1, *flow.event_shape) if reads_events(params["head"]) else drawn.x.reshape(solved.size, -1)
            entropy = head_loss(params["head"], t, solved.reshape(-1), labels, half=half)
            losses["loss"] = losses["loss"] + head_weight * entropy
            losses["cross_entropy"] = entropy
        return losses

    return at_precision(precision, loss)
