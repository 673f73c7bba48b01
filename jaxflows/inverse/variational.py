"""Variational inference by a second flow, in the latent of the frozen one or in the space of events.

    maximise  E_q[ log p(u, b) - log q(u) ]  <=  log p(b),      u = h^{-1}(eps),  eps ~ N(0, I),

h being a flow of the library, whose draws are reparametrised. `jaxflows.inverse.pregenerator_method` and
`jaxflows.inverse.ambient_method` say what u is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxflows.bijectors.base import Params, Shape
from jaxflows.flows import Flow, standard_normal_log_prob
from jaxflows.flows.realnvp_flows import realnvp
from jaxflows.inverse.flow_posterior import FlowPosterior
from jaxflows.inverse.marginal_bound import Marginal, marginal_log_weights, refuse_unless_marginal
from jaxflows.inverse.method import Method, Outcome, check_positive
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, misfit
from jaxflows.training.step import renewed, settle


class Settings(NamedTuple):
    """Options of a fit; static.

    Attributes:
        steps: gradient steps.
        num_draws: m, draws a step.
        learning_rate: of Adam.
        sigma: smoothing of a measurement without noise.
    """

    steps: int
    num_draws: int
    learning_rate: float
    sigma: float


class Target(NamedTuple):
    """What q approximates; static.

    Attributes:
        surrogate: ``(key, params, measurement, u) -> log p(u, b), (event, block evaluations)``, perhaps an estimate.
        exact: ``(params, measurement, u) ->`` the same, exact.
    """

    surrogate: Callable[..., tuple[jax.Array, tuple[jax.Array, jax.Array]]]
    exact: Callable[..., tuple[jax.Array, tuple[jax.Array, jax.Array]]]


def variational_method(
    name: str,
    refuse: Callable[[Flow, NoisyMeasurement], str | None],
    shape: Callable[[Flow], Shape],
    target: Callable[[Flow, float], Target],
    posterior: Callable[[Flow, Flow, Params, Params], FlowPosterior],
    family: Flow | None,
    settings: Settings,
    marginal_draws: int,
) -> Method:
    """The method that fits ``family`` to a target.

    Args:
        name, refuse: as in `Method`.
        shape: ``flow -> shape of u``.
        target: ``(flow, sigma) -> Target``, the same object for the same arguments.
        posterior: ``(flow, family, params, theta) -> q of events``.
        family: a flow over arrays of that shape; affine couplings when None.
        settings: of the fit.
        marginal_draws: K of `jaxflows.inverse.marginal_bound`; 0 for no marginal bound.
    """
    check_positive(**settings._asdict())
    check_marginal_draws(marginal_draws)

    def refuse_both(flow: Flow, measurement: NoisyMeasurement) -> str | None:
        if family is not None and family.event_shape != shape(flow):
            return f"expected a family of flows over arrays of shape {shape(flow)}; got one over {family.event_shape}"
        reason = refuse(flow, measurement)
        return refuse_unless_marginal(flow, measurement) if reason is None and marginal_draws else reason

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        chosen = _couplings(shape(flow)) if family is None else family
        goal = target(flow, settings.sigma)
        k_fit, k_draw, k_marginal = jax.random.split(key, 3)
        theta, bounds, spent = _fit(chosen, goal, settings, k_fit, params, measurement)
        outcome = weighted_draws(chosen, goal, num_samples, k_draw, params, theta, measurement)
        outcome = outcome._replace(evaluations=outcome.evaluations + spent, posterior=posterior(flow, chosen, params, theta))
        outcome = _noted(outcome, bounds)
        if not marginal_draws:
            return outcome
        return with_marginal(outcome, flow, params, measurement, settings.sigma, marginal_draws, k_marginal)

    return Method(name, refuse_both, run)


def check_marginal_draws(count: int) -> None:
    """Raise ValueError for a negative number."""
    if count < 0:
        raise ValueError(f"expected marginal_draws >= 0; got {count}")


def with_marginal(
    outcome: Outcome, flow: Flow, params: Params, measurement: NoisyMeasurement, sigma: float, inner: int, key: jax.Array
) -> Outcome:
    """The outcome of a method that has a ``posterior``, with its marginal bound from ``inner`` draws a sample."""
    assert outcome.posterior is not None
    weights, spent = marginal_log_weights(
        flow, outcome.posterior.flow, inner, key, params, outcome.posterior.params, measurement, sigma, outcome.samples
    )
    return outcome._replace(marginal=Marginal(float(jnp.mean(weights)), weights), evaluations=outcome.evaluations + spent)


def _couplings(shape: Shape) -> Flow:
    return realnvp(event_shape=shape, layers=4, hidden=min(128, max(16, 2 * math.prod(shape))), blocks=1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(
    family: Flow, target: Target, settings: Settings, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[Params, jax.Array, jax.Array]:
    """Fit q.

    Returns:
        The parameters of q, the bound on the draws of every step, (steps,), in nats, and the block evaluations spent.
    """
    k_init, k_steps = jax.random.split(key)
    optimizer = optax.adam(settings.learning_rate)

    def loss(raw: Params, k: jax.Array) -> tuple[jax.Array, tuple[Params, jax.Array]]:
        theta = family.bijector.constrain(raw)

        def one(k: jax.Array) -> tuple[jax.Array, jax.Array]:
            k_eps, k_target = jax.random.split(k)
            u, log_q = _draw(family, theta, k_eps)
            log_p, (_, evaluations) = target.surrogate(k_target, params, measurement, u)
            return log_q - log_p, evaluations + family.bijector.blocks

        values, evaluations = jax.vmap(one)(jax.random.split(k, settings.num_draws))
        return jnp.mean(values), (theta, jnp.sum(evaluations))

    def step(carry: Any, k: jax.Array) -> tuple[Any, jax.Array]:
        raw, memory, spent = carry
        (value, (theta, evaluations)), gradient = jax.value_and_grad(loss, has_aux=True)(raw, k)
        updates, memory = optimizer.update(gradient, memory, raw)
        raw = optax.apply_updates(renewed(raw, theta), updates)
        return (raw, memory, spent + 2 * evaluations), -value

    raw = family.init(k_init)
    carry = (raw, optimizer.init(raw), jnp.zeros((), jnp.int32))
    (raw, _, spent), bounds = jax.lax.scan(step, carry, jax.random.split(k_steps, settings.steps))
    return settle(family, raw), bounds, spent


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def weighted_draws(
    family: Flow, target: Target, num_samples: int, key: jax.Array, params: Params, theta: Params, measurement: NoisyMeasurement
) -> Outcome:
    """Draws of q with their exact log-weights log p(u, b) - log q(u), whose mean is the bound."""

    def sample(k: jax.Array) -> tuple[jax.Array, ...]:
        u, log_q = _draw(family, theta, k)
        log_p, (y, evaluations) = target.exact(params, measurement, u)
        return y, misfit(measurement, y), log_p - log_q, evaluations + family.bijector.blocks

    events, fit, log_weights, evaluations = jax.vmap(sample)(jax.random.split(key, num_samples))
    return Outcome(events, fit, log_weights, jnp.mean(log_weights), jnp.sum(evaluations), ())


def _draw(family: Flow, theta: Params, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One reparametrised draw of q and its log-density."""
    eps = jax.random.normal(key, family.latent_shape)
    u, log_det = family.bijector.inverse(theta, eps)
    return u, standard_normal_log_prob(eps) - log_det


def _noted(outcome: Outcome, bounds: jax.Array) -> Outcome:
    """The outcome with a note where the bound was still rising, or was not finite, when the steps ran out."""
    if not bool(jnp.all(jnp.isfinite(bounds))):
        note = "the fit met values that are not finite: a likely cause is a learning rate too high"
        return outcome._replace(notes=(note,))
    early, late = jnp.array_split(bounds[-max(4, len(bounds) // 5) :], 2)
    error = jnp.sqrt(jnp.var(early) / early.size + jnp.var(late) / late.size)
    rise = float(jnp.mean(late) - jnp.mean(early))
    if rise > 3.0 * float(error) > 0.0:
        note = f"the bound was still rising, by {rise:.3g} nats over the last tenth of the steps: more steps would help"
        return outcome._replace(notes=(note,))
    return outcome
