"""Hamiltonian Monte Carlo in the latent, by blackjax (``pip install jaxflows[mcmc]``)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.latent import decode_all, log_joint
from jaxflows.inverse.method import Method, Outcome, check_positive, serve_all, unweighted
from jaxflows.inverse.noisy_measurements import NoisyMeasurement


@factory
def nuts(*, warm_up: int = 500, steps: int = 100, sigma: float = 0.05) -> Method:
    """The no-U-turn sampler (Hoffman and Gelman 2014), step and mass adapted by one chain's windows.

    S chains from the prior then run with what was adapted; a chain's last state is its sample.

    Args:
        warm_up: steps of the adapting chain.
        steps: of every chain after it.
        sigma: smoothing of a measurement without noise.

    Cost: 2 decodes a leapfrog step, gradients counted; the notes tell how many leapfrog steps were taken.
    """
    return _method("nuts", warm_up, steps, sigma)


@factory
def hmc(*, warm_up: int = 500, steps: int = 100, leapfrogs: int = 16, sigma: float = 0.05) -> Method:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps, their size drawn anew each time; otherwise as `nuts`.

    Args:
        warm_up, steps, sigma: as `nuts`.
        leapfrogs: a proposal.
    """
    check_positive(leapfrogs=leapfrogs)
    return _method("hmc", warm_up, steps, sigma, num_integration_steps=leapfrogs)


def _method(name: str, warm_up: int, steps: int, sigma: float, **options: int) -> Method:
    check_positive(warm_up=warm_up, steps=steps, sigma=sigma)
    static = (name, warm_up, steps, sigma, tuple(options.items()))

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        *found, rate, leapfrogs = _chains(flow, static, num_samples, key, params, measurement)
        note = f"a share of {float(rate):.3f} of the proposals was accepted, of {float(leapfrogs):.1f} leapfrog steps each"
        return unweighted(measurement, *found, note)

    return Method(name, _refuse, run)


def _refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    if importlib.util.find_spec("blackjax") is None:
        return "expected blackjax to be installed, `pip install jaxflows[mcmc]`; got no such module"
    return serve_all(flow, measurement)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _chains(
    flow: Flow, static: tuple[Any, ...], num_samples: int, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    blackjax = importlib.import_module("blackjax")
    name, warm_up, steps, sigma, options = static
    algorithm = getattr(blackjax, name)

    def log_density(flat: jax.Array) -> jax.Array:
        return log_joint(flow, params, measurement, sigma, flat.reshape(flow.latent_shape))[0]

    k_begin, k_adapt, k_start, k_steps = jax.random.split(key, 4)
    adaptation = blackjax.window_adaptation(algorithm, log_density, **dict(options))
    begin = jax.random.normal(k_begin, (flow.size,))
    (_, adapted), trace = adaptation.run(k_adapt, begin, warm_up)
    kernel = algorithm(log_density, **adapted)

    def chain(key: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def step(state: Any, k: jax.Array) -> tuple[Any, Any]:
            k_size, k_move = jax.random.split(k)
            # trajectories of one length that comes near a period of the target would lead back to where they began (Neal 2011)
            shorter = adapted["step_size"] * jax.random.uniform(k_size, minval=0.5)
            state, info = algorithm(log_density, **(adapted | {"step_size": shorter})).step(k_move, state)
            return state, (info.acceptance_rate, info.num_integration_steps)

        state, (rates, leapfrogs) = jax.lax.scan(step, kernel.init(start), jax.random.split(key, steps))
        return state.position, jnp.mean(rates), jnp.sum(leapfrogs)

    starts = jax.random.normal(k_start, (num_samples, flow.size))
    ends, rates, leapfrogs = jax.vmap(chain)(jax.random.split(k_steps, num_samples), starts)
    latents = ends.reshape(num_samples, *flow.latent_shape)
    events, evaluations = decode_all(flow, params, latents)
    a_decode = flow.decode(params, latents[0])[1].evaluations
    taken = jnp.sum(leapfrogs) + jnp.sum(trace.info.num_integration_steps)
    return events, evaluations + 2 * a_decode * taken, jnp.mean(rates), jnp.sum(leapfrogs) / (num_samples * steps)
