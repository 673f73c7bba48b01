"""What completes the centres of CIFAR-10 images: ours, PL-MCMC and one Gaussian, as `benchmarks.cifar_centre` says."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.completion_speed import advanced, begun, second_half
from benchmarks.train_cifar_flow import SHAPE
from jaxflows.conditional import posteriors
from jaxflows.conditional.complete import complete
from jaxflows.conditional.fit_posterior import Fitted, fit_posterior
from jaxflows.conditional.sample import Draws, draw_samples
from jaxflows.data import named_mask
from jaxflows.flows import Flow
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement
from jaxflows.inverse.plmcmc_method import PlmcmcOptions
from jaxflows.measurements import entries
from jaxflows.metrics import Gaussian, crps, gaussian_conditional
from jaxflows.observation import mask

MASK = named_mask("centre:8", SHAPE)
HOUSEHOLDER = posteriors.householder(num_reflections=50, start="prior")
# one object: it is static under jit
ADAM = optax.adam(1e-2)
OURS = ("ours_householder", "ours_gauss_newton")
PLMCMC = ("plmcmc_published", "plmcmc_tuned")
SYSTEMS = (*OURS, *PLMCMC, "gaussian")
# in 3,072 dimensions a walk is accepted that is much narrower than on digits
TRIED = tuple(
    PlmcmcOptions(sigma_a, sigma_p, 1.0, 0.1) for sigma_a, sigma_p in ((0.02, 0.005), (0.1, 0.005), (0.1, 0.02), (0.5, 0.02))
)
# steps of a chain to a call, and between two states that are kept
CHUNK, THIN = 100, 10


class Problem(NamedTuple):
    """Some test images to complete.

    Attributes:
        flow, params: the flow, its exact log-determinants replaced.
        numbers: which images they are, (rows,).
        pixels: (rows, *event), in [0, 1].
        events: (rows, *event), with noise.
        fit_steps, chain_steps, draws: sizes.
    """

    flow: Flow
    params: Any
    numbers: np.ndarray
    pixels: np.ndarray
    events: np.ndarray
    fit_steps: int
    chain_steps: int
    draws: int

    def keys(self, number: int) -> jax.Array:
        """A key an image, of its number and not of the images beside it."""
        return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(number), i))(jnp.asarray(self.numbers))


class Drawn(NamedTuple):
    """What a system drew.

    Attributes:
        samples: (rows, S, *event).
        evaluations: (rows,).
        more: further columns, (rows,) each.
    """

    samples: np.ndarray
    evaluations: np.ndarray
    more: dict[str, np.ndarray]


def image_rmse(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Root mean square over missing entries and draws, (rows,), of (rows, *event) or (rows, S, *event)."""
    values = values if values.ndim > pixels.ndim else values[:, None]
    squared = (values - pixels[:, None])[:, :, ~MASK] ** 2
    return np.asarray(np.sqrt(squared.mean(axis=(1, 2))))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(flow: Flow, family: posteriors.Posterior, draws: int, params: Any, keys: jax.Array, fit: Fitted, known: Any) -> Draws:
    def one(key: jax.Array, fit: Fitted, y: jax.Array) -> Draws:
        return draw_samples(key, flow, params, mask(MASK), y, num_samples=draws, posterior=family, fitted=fit)

    return jax.vmap(one)(keys, fit, known)


def ours_householder(problem: Problem) -> Drawn:
    """The paper's algorithm on all images of the batch at once, and draws before its first step."""
    flow, params, draws = problem.flow, problem.params, problem.draws
    known = jnp.asarray(problem.events)
    observations = jax.vmap(mask)(jnp.broadcast_to(MASK, known.shape))
    fitted, trace = fit_posterior(
        problem.keys(1), flow, params, observations, known, posterior=HOUSEHOLDER, optimizer=ADAM, steps=problem.fit_steps,
        num_samples=8, estimator="nlade", partition="same", bound_samples=2, tolerance=0.0,
    )  # fmt: skip
    if trace.interrupted:
        raise KeyboardInterrupt
    first = _draw(flow, posteriors.prior(), draws, params, problem.keys(2), fitted._replace(theta=()), known)
    last = _draw(flow, HOUSEHOLDER, draws, params, problem.keys(3), fitted, known)
    each = (np.asarray(first.solve.evaluations) + np.asarray(last.solve.evaluations)) / (2 * draws)
    evaluations = each * 8 * int(trace.steps[-1]) + np.asarray(last.solve.evaluations)
    more = {
        "rmse_first_iteration": image_rmse(np.asarray(first.samples), problem.pixels),
        "converged_fraction": np.asarray(last.solve.converged), "unconverged_in_fit": trace.unconverged,
        "bound_first": trace.bound[0], "bound": trace.bound[-1],
    }  # fmt: skip
    return Drawn(np.asarray(last.samples), evaluations, more)


def ours_gauss_newton(problem: Problem) -> Drawn:
    """`complete` as it is by default."""
    done = complete(
        jax.random.key(4), problem.flow, problem.params, problem.events, MASK, num_samples=problem.draws, progress=False
    )
    samples, _ = done.solved()
    more = {"converged_fraction": done.info.converged, "bound": done.info.bound, "overlap": done.info.overlap}
    return Drawn(samples, done.info.evaluations, more)


def plmcmc(options: PlmcmcOptions, problem: Problem) -> Drawn:
    """Chains of every image; the draws are spread evenly over their second halves."""
    flow, params, keys = problem.flow, problem.params, problem.keys(5)
    measured = [noisy_measurement(entries(MASK), row[MASK]) for row in problem.events]
    measurements: NoisyMeasurement = jax.tree.map(lambda *leaves: jnp.stack(leaves), *measured)
    states, spent = begun(flow, options, keys, params, measurements)
    evaluations, events, acceptance = np.asarray(spent, np.int64), [], []
    for _ in range(-(-problem.chain_steps // CHUNK)):
        keys = jax.vmap(lambda k: jax.random.split(k)[1])(keys)
        went = advanced(flow, options, keys, params, measurements, states, steps=CHUNK, thin=THIN)
        states = went.states
        evaluations = evaluations + np.asarray(went.evaluations)
        acceptance.append(np.asarray(went.acceptance))
        events.append(np.asarray(went.events))
    more = {"acceptance": np.mean(acceptance, axis=0)}
    return Drawn(second_half(np.concatenate(events, axis=2), problem.draws), evaluations, more)


def gaussian(fitted: Gaussian, problem: Problem) -> Drawn:
    """The conditional of one Gaussian."""
    observed = np.broadcast_to(MASK, problem.events.shape)
    samples = gaussian_conditional(fitted, problem.events, observed, num_samples=problem.draws).samples
    return Drawn(samples, np.zeros(len(samples)), {})


def best_widths(problem: Problem) -> PlmcmcOptions:
    """Of the widths tried, those of least CRPS after a quarter of the steps."""

    def score(options: PlmcmcOptions) -> float:
        samples = plmcmc(options, problem._replace(chain_steps=problem.chain_steps // 4)).samples
        found = float(crps(jnp.asarray(samples), jnp.asarray(problem.events), jnp.broadcast_to(MASK, samples[:, 0].shape)))
        print(f"  pilot {options}: CRPS {found:.4f}", flush=True)
        return found

    return min(TRIED, key=score)
