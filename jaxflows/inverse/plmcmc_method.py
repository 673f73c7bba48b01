"""PL-MCMC: Metropolis-Hastings in the latent of a flow given some entries of its event (Cannella et al. 2021), corrected."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.latent import accept
from jaxflows.inverse.method import Method, Outcome, check_positive, unweighted
from jaxflows.inverse.noise import normal_log_prob
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, residual
from jaxflows.metrics.chain_convergence import bulk_ess, split_r_hat
from jaxflows.observation import is_mask

# states of every chain, at most, that are kept for the diagnostics
_KEPT = 100


class PlmcmcOptions(NamedTuple):
    """What `plmcmc` takes, but the number of steps; traced."""

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
    observed entries pasted in, so that x_O = x_O* at the start. The notes tell the acceptance, which is small with the
    published sigma_a, and of the second half of the chains the split R-hat and the bulk effective sample size
    (`jaxflows.metrics.split_r_hat`, `bulk_ess`): the largest and the least of any hidden entry.

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
    options = PlmcmcOptions(sigma_a, sigma_p, sigma_r, independent)
    thin = max(1, steps // _KEPT)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        k_begin, k_steps = jax.random.split(key)
        begun, spent = begin_chains(flow, num_samples, options, k_begin, params, measurement)
        went = advance_chains(flow, steps, thin, options, k_steps, params, measurement, begun)
        notes = [f"a share of {float(went.acceptance):.3g} of the proposals was accepted"]
        second_half = went.events[:, went.events.shape[1] // 2 :]
        if second_half.shape[1] >= 4 and measurement.values.size < flow.size:
            assert measurement.linear is not None
            hidden = second_half[:, :, ~np.asarray(measurement.linear.observation.observed)]
            worst, least = jnp.max(split_r_hat(hidden)), jnp.min(bulk_ess(hidden))
            notes.append(
                f"in the second half of the chains the largest split R-hat is {float(worst):.3g} and the least bulk effective "
                f"sample size {float(least):.3g} of {hidden.shape[0] * hidden.shape[1]}"
            )
        outcome = unweighted(measurement, went.states.x, spent + went.evaluations, *notes)
        return outcome._replace(samples=went.states.pasted)

    return Method("plmcmc", _refuse, run)


def _refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    del flow
    if measurement.linear is None or not is_mask(measurement.linear.observation):
        return "expected entries of the event, `jaxflows.measurements.entries`; got another measurement"
    if measurement.noise.log_prob is not None:
        return "expected entries without noise; got a noise model"
    return None


class ChainState(NamedTuple):
    """A latent, its event, the event with the observation pasted in, and log pi up to a constant."""

    z: jax.Array
    x: jax.Array
    pasted: jax.Array
    log_density: jax.Array


class Advanced(NamedTuple):
    """Chains that went on.

    Attributes:
        states: where they are, every leaf (chains, ...).
        events: (chains, kept, *event), what they passed, every ``thin`` steps, with the observation pasted in.
        acceptance: mean chance of a proposal.
        evaluations: block evaluations.
    """

    states: ChainState
    events: jax.Array
    acceptance: jax.Array
    evaluations: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def begin_chains(
    flow: Flow, num_chains: int, options: PlmcmcOptions, key: jax.Array, params: Params, measurement: NoisyMeasurement
) -> tuple[ChainState, jax.Array]:
    """Chains at prior samples with the observation pasted in, and the block evaluations spent."""
    state = _density(flow, options, params, measurement)

    def chain(key: jax.Array) -> tuple[ChainState, jax.Array]:
        y, info = flow.decode(params, jax.random.normal(key, flow.latent_shape))
        start, spent = state(flow.encode(params, _pasted(measurement, y)))
        return start, spent + info.evaluations + flow.bijector.blocks

    states, spent = jax.vmap(chain)(jax.random.split(key, num_chains))
    return states, jnp.sum(spent)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def advance_chains(
    flow: Flow, steps: int, thin: int, options: PlmcmcOptions, key: jax.Array, params: Params, measurement: NoisyMeasurement,
    states: ChainState,
) -> Advanced:  # fmt: skip
    """``steps`` steps of every chain, of which one in ``thin`` is kept; the first steps, if they do not divide, are not."""
    state = _density(flow, options, params, measurement)
    log_shares = jnp.log(jnp.stack([options.independent, 1.0 - jnp.asarray(options.independent)]))

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

    def several(carry: Any, keys: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        carry, chances = jax.lax.scan(step, carry, keys)
        return carry, (carry[0].pasted, jnp.sum(chances))

    kept = steps // thin

    def chain(key: jax.Array, begun: ChainState) -> tuple[ChainState, jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, steps)
        carry, first = (begun, jnp.zeros((), jnp.int32)), jnp.zeros(())
        if steps > kept * thin:
            carry, (_, first) = several(carry, keys[: steps - kept * thin])
        later = keys[steps - kept * thin :].reshape(kept, thin)
        (end, spent), (events, chances) = jax.lax.scan(several, carry, later)
        return end, events, (first + jnp.sum(chances)) / steps, spent

    ends, events, chances, spent = jax.vmap(chain)(jax.random.split(key, len(states.z)), states)
    return Advanced(ends, events, jnp.mean(chances), jnp.sum(spent))


def _density(
    flow: Flow, options: PlmcmcOptions, params: Params, measurement: NoisyMeasurement
) -> Callable[[jax.Array], tuple[ChainState, jax.Array]]:
    """``z -> state`` and the block evaluations of finding it."""

    def state(z: jax.Array) -> tuple[ChainState, jax.Array]:
        x, info = flow.decode(params, z)
        log_det = -flow.bijector.forward(params, x)[1]
        whole = _pasted(measurement, x)
        near = normal_log_prob(jnp.asarray(options.sigma_a, x.dtype), residual(measurement, x))
        spent = info.evaluations + 2 * flow.bijector.blocks
        return ChainState(z, x, whole, flow.log_prob(params, whole) + near + log_det), spent

    return state


def _pasted(measurement: NoisyMeasurement, x: jax.Array) -> jax.Array:
    assert measurement.linear is not None
    return measurement.linear.observation.restore(x, measurement.linear.pseudo_inverse(measurement.values))
