"""Langevin dynamics in the latent: unadjusted as it is published, and adjusted by Metropolis as it should be."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.latent import accept, decode_all, log_joint
from jaxflows.inverse.method import Method, Outcome, check_positive, serve_all, unweighted
from jaxflows.inverse.noisy_measurements import NoisyMeasurement


class _Unadjusted(NamedTuple):
    steps: int
    step_size: float
    sigma: float
    temperature: float
    levels: int


class _Adjusted(NamedTuple):
    warm_up: int
    steps: int
    step_size: float
    acceptance: float
    sigma: float


@factory
def langevin(
    *, steps: int = 1000, step_size: float = 5e-4, sigma: float = 0.05, temperature: float = 1.0, levels: int = 10
) -> Method:
    """Unadjusted Langevin dynamics in the latent (Jalal et al. 2021; supplement, C.3).

        z <- z - eta grad U(z) + sqrt(2 eta) xi,   U(z) = |z|^2 / 2 - log p(b | A(f(z))),   xi ~ N(0, I)

    S chains from the prior; a chain's last state is its sample. Unadjusted: its stationary law is biased by the step size,
    and a thousand steps of the published size need not reach it. `mala` removes the bias.

    Args:
        steps: of every chain.
        step_size: eta at the end.
        sigma: smoothing of a measurement without noise.
        temperature: by which the likelihood is divided at first, falling to 1 geometrically in ``levels`` levels while the
            step falls with it (annealed Langevin: Jalal et al. begin at 16, a fourfold sigma); 1 for none.
        levels: of the annealing.

    Cost: 2 ``steps`` decodes a sample, gradients counted.
    """
    check_positive(steps=steps, step_size=step_size, sigma=sigma, levels=levels)
    if temperature < 1.0:
        raise ValueError(f"expected temperature >= 1; got {temperature}")
    options = _Unadjusted(steps, step_size, sigma, temperature, levels)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        return unweighted(measurement, *_unadjusted_chains(flow, options, num_samples, key, params, measurement))

    return Method("langevin", serve_all, run)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _unadjusted_chains(
    flow: Flow, options: _Unadjusted, num_samples: int, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[jax.Array, jax.Array]:
    level = jnp.arange(options.steps) * options.levels // options.steps
    heat = options.temperature ** (1.0 - level / max(1, options.levels - 1))

    score = jax.grad(functools.partial(log_joint, flow, params, measurement, options.sigma), has_aux=True)

    def chain(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        k_start, k_steps = jax.random.split(key)

        def step(carry: Any, xs: Any) -> tuple[Any, None]:
            (z, spent), (k, heat) = carry, xs
            gradient, (_, evaluations) = score(z, heat)
            eta = options.step_size * heat
            z = z + eta * gradient + jnp.sqrt(2.0 * eta) * jax.random.normal(k, z.shape)
            return (z, spent + 2 * evaluations), None

        start = (jax.random.normal(k_start, flow.latent_shape), jnp.zeros((), jnp.int32))
        return jax.lax.scan(step, start, (jax.random.split(k_steps, options.steps), heat))[0]

    latents, spent = jax.vmap(chain)(jax.random.split(key, num_samples))
    events, evaluations = decode_all(flow, params, latents)
    return events, jnp.sum(spent) + evaluations


@factory
def mala(
    *, warm_up: int = 1000, steps: int = 1000, step_size: float = 1e-2, acceptance: float = 0.574, sigma: float = 0.05
) -> Method:
    """The Langevin proposal, accepted or not by Metropolis (Roberts and Tweedie 1996), its step adapted in the warm-up.

    S chains from the prior share one step, which rises and falls with their mean acceptance while they warm up and is then
    held, so that what follows leaves the posterior unchanged. A chain's last state is its sample. The notes tell the
    acceptance and the step.

    Args:
        warm_up, steps: of every chain, before the step is held and after.
        step_size: where the adaptation begins.
        acceptance: its target; 0.574 is best in many dimensions.
        sigma: smoothing of a measurement without noise.

    Cost: 2 (``warm_up`` + ``steps``) decodes a sample, gradients counted.
    """
    check_positive(warm_up=warm_up, steps=steps, step_size=step_size, sigma=sigma)
    if not 0.0 < acceptance < 1.0:
        raise ValueError(f"expected acceptance in (0, 1); got {acceptance}")
    options = _Adjusted(warm_up, steps, step_size, acceptance, sigma)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        *found, rate, step = _adjusted_chains(flow, options, num_samples, key, params, measurement)
        note = f"a share of {float(rate):.3f} of the proposals was accepted after the warm-up, at step {float(step):.3g}"
        return unweighted(measurement, *found, note)

    return Method("mala", serve_all, run)


class _Point(NamedTuple):
    """A state of a chain and what the next proposal needs of it."""

    z: jax.Array
    log_density: jax.Array
    gradient: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _adjusted_chains(
    flow: Flow, options: _Adjusted, num_samples: int, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    target = jax.value_and_grad(functools.partial(log_joint, flow, params, measurement, options.sigma), has_aux=True)

    def point(z: jax.Array) -> tuple[_Point, jax.Array]:
        (log_density, (_, evaluations)), gradient = target(z)
        return _Point(z, log_density, gradient), 2 * evaluations

    def move(key: jax.Array, now: _Point, eta: jax.Array) -> tuple[_Point, jax.Array, jax.Array]:
        k_noise, k_accept = jax.random.split(key)
        noise = jax.random.normal(k_noise, now.z.shape)
        then, evaluations = point(now.z + eta * now.gradient + jnp.sqrt(2.0 * eta) * noise)
        back = jnp.sum((now.z - then.z - eta * then.gradient) ** 2) / (4.0 * eta)
        log_ratio = then.log_density - now.log_density - back + 0.5 * jnp.sum(noise**2)
        log_uniform = jnp.log(jax.random.uniform(k_accept))
        state, chance = accept(log_uniform, log_ratio, then, now)
        return state, chance, evaluations

    def step(carry: Any, xs: Any) -> tuple[Any, jax.Array]:
        (points, log_step, spent), (k, number) = carry, xs
        points, chances, evaluations = jax.vmap(move, (0, 0, None))(jax.random.split(k, num_samples), points, jnp.exp(log_step))
        rate = jnp.mean(chances)
        gain = jnp.where(number < options.warm_up, (number + 1.0) ** -0.6, 0.0)
        log_step = log_step + gain * (rate - options.acceptance)
        return (points, log_step, spent + jnp.sum(evaluations)), rate

    k_start, k_steps = jax.random.split(key)
    total = options.warm_up + options.steps
    points, spent = jax.vmap(point)(jax.random.normal(k_start, (num_samples, *flow.latent_shape)))
    start = (points, jnp.log(jnp.asarray(options.step_size)), jnp.sum(spent))
    xs = (jax.random.split(k_steps, total), jnp.arange(total))
    (points, log_step, spent), rates = jax.lax.scan(step, start, xs)
    events, evaluations = decode_all(flow, params, points.z)
    return events, spent + evaluations, jnp.mean(rates[options.warm_up :]), jnp.exp(log_step)
