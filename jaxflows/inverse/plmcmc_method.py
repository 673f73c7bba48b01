"""PL-MCMC: Metropolis-Hastings in the latent of a flow given some entries of its event (Cannella et al. 2021), corrected."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.latent import accept
from jaxflows.inverse.method import Method, Outcome, check_positive, unweighted
from jaxflows.inverse.noise import normal_log_prob
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, residual
from jaxflows.observation import is_mask


class _Options(NamedTuple):
    steps: int
    sigma_a: float
    sigma_p: float
    sigma_r: float
    independent: float


@factory
def plmcmc(
    *,
    steps: int = 2000,
    sigma_a: float = 1e-3,
    sigma_p: float = 0.05,
    sigma_r: float = 1.0,
    independent: float = 0.5,
) -> Method:
    """Metropolis-Hastings on a target in the latent whose hidden entries have the posterior's law.

        pi(z)  ~  p(P(x)) N(x_O; x_O*, sigma_a^2 I) |det df/dz|,  x = f(z),

    P(x) being x with what was observed pasted in. The marginal of x_H under pi is p(x_H | x_O*) whatever sigma_a. Samples are
    P(x); misfits are of x. With chance r a proposal is N(0, sigma_r^2 I), else it is N(z, sigma_p^2 I).

    Corrected against code in use: log|det df/dz| stays in the ratio, which is right for NICE alone without it, and the density
    of the proposal is that of the mixture, not of the component that was drawn. Chains begin at a prior sample with the
    observed entries pasted in, so that x_O = x_O* at the start. The notes tell the acceptance: with the published sigma_a it
    is small.

    Args:
        steps: of every chain.
        sigma_a: tolerance on the observed entries.
        sigma_p: of the random walk.
        sigma_r: of the independent proposals.
        independent: r, their share, in [0, 1].

    Serves exact entries only. Cost: one decode and two densities a step; no gradients.
    """
    check_positive(steps=steps, sigma_a=sigma_a, sigma_p=sigma_p, sigma_r=sigma_r)
    if not 0.0 <= independent <= 1.0:
        raise ValueError(f"expected independent in [0, 1]; got {independent}")
    options = _Options(steps, sigma_a, sigma_p, sigma_r, independent)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        pasted, events, spent, rate = _chains(flow, options, num_samples, key, params, measurement)
        note = f"a share of {float(rate):.3g} of the proposals was accepted"
        outcome = unweighted(measurement, events, spent, note)
        return outcome._replace(samples=pasted)

    return Method("plmcmc", _refuse, run)


def _refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    del flow
    if measurement.linear is None or not is_mask(measurement.linear.observation):
        return "expected entries of the event, `jaxflows.measurements.entries`; got another measurement"
    if measurement.noise.log_prob is not None:
        return "expected entries without noise; got a noise model"
    return None


class _State(NamedTuple):
    """A latent, its event, the event with the observation pasted in, and log pi up to a constant."""

    z: jax.Array
    x: jax.Array
    pasted: jax.Array
    log_density: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _chains(
    flow: Flow, options: _Options, num_samples: int, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    assert measurement.linear is not None
    known = measurement.linear.pseudo_inverse(measurement.values)
    paste = functools.partial(_pasted, measurement, known)
    shares = (options.independent, 1.0 - options.independent)
    log_shares = jnp.asarray([math.log(share) if share > 0 else -math.inf for share in shares])

    def state(z: jax.Array) -> tuple[_State, jax.Array]:
        x, info = flow.decode(params, z)
        log_det = -flow.bijector.forward(params, x)[1]
        whole = paste(x)
        near = normal_log_prob(jnp.asarray(options.sigma_a, x.dtype), residual(measurement, x))
        spent = info.evaluations + 2 * flow.bijector.blocks
        return _State(z, x, whole, flow.log_prob(params, whole) + near + log_det), spent

    def log_proposal(then: jax.Array, now: jax.Array) -> jax.Array:
        anew = normal_log_prob(jnp.asarray(options.sigma_r, now.dtype), then.reshape(-1))
        walk = normal_log_prob(jnp.asarray(options.sigma_p, now.dtype), (then - now).reshape(-1))
        return jax.scipy.special.logsumexp(log_shares + jnp.stack([anew, walk]))

    def step(carry: Any, k: jax.Array) -> tuple[Any, jax.Array]:
        now, spent = carry
        k_kind, k_noise, k_accept = jax.random.split(k, 3)
        noise = jax.random.normal(k_noise, now.z.shape)
        anew = jax.random.uniform(k_kind) < options.independent
        then, evaluations = state(jnp.where(anew, options.sigma_r * noise, now.z + options.sigma_p * noise))
        log_ratio = then.log_density - now.log_density + log_proposal(now.z, then.z) - log_proposal(then.z, now.z)
        moved, chance = accept(jnp.log(jax.random.uniform(k_accept)), log_ratio, then, now)
        return (moved, spent + evaluations), chance

    def chain(key: jax.Array) -> tuple[_State, jax.Array, jax.Array]:
        k_start, k_steps = jax.random.split(key)
        y, info = flow.decode(params, jax.random.normal(k_start, flow.latent_shape))
        start, spent = state(flow.encode(params, paste(y)))
        (end, spent), chances = jax.lax.scan(step, (start, spent), jax.random.split(k_steps, options.steps))
        return end, spent + info.evaluations + flow.bijector.blocks, jnp.mean(chances)

    ends, spent, chances = jax.vmap(chain)(jax.random.split(key, num_samples))
    return ends.pasted, ends.x, jnp.sum(spent), jnp.mean(chances)


def _pasted(measurement: NoisyMeasurement, known: jax.Array, x: jax.Array) -> jax.Array:
    assert measurement.linear is not None
    return measurement.linear.observation.restore(x, known)
