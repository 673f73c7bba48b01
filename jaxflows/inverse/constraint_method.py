"""Exact conditioning, by the constraint solvers of this library: the method to try first where it can serve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.conditional.complete import complete
from jaxflows.conditional.posteriors import Posterior
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.method import Method, Outcome, has_logit, refuse_unless_linear
from jaxflows.inverse.noise_extension import extended_flow, extended_measurement, log_volume
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, misfit
from jaxflows.observation import is_mask
from jaxflows.solvers.equation import ConstraintSolver


@factory
def constraint(
    *,
    posterior: Posterior | None = None,
    fit_steps: int = 200,
    solver: ConstraintSolver | None = None,
    partition: str = "auto",
    anchors: int = 1,
    weighted: bool | None = None,
    antithetic: bool = False,
    moves: int | None = None,
    chains: int | None = None,
) -> Method:
    """`jaxflows.complete` on the measurement, or with Gaussian noise on the flow extended by it (docs/inverse.md).

    Serves linear measurements, exact or with Gaussian noise. Samples come with importance weights, or where weights would cost
    most and tell least are moved instead (`jaxflows.conditional.drawing_plan`), and nothing is smoothed: without noise A y = b
    holds to rounding.

    Args:
        posterior, fit_steps, solver, partition, anchors, weighted, antithetic, moves, chains: as `jaxflows.complete`.

    Cost: that of `jaxflows.complete` for one row; with noise all d dimensions of the event are free.
    """

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        operator, sigma = measurement.linear, measurement.noise.sigma
        assert operator is not None
        whole = flow
        if sigma is not None:
            whole = extended_flow(flow, measurement.values.size)
            operator = extended_measurement(operator, sigma)
        done = complete(
            key, whole, params, np.asarray(measurement.values)[None], operator, num_samples=num_samples, posterior=posterior,
            fit_steps=fit_steps, solver=solver, partition=partition, anchors=anchors, weighted=weighted, antithetic=antithetic,
            moves=moves, chains=chains, progress=False,
        )  # fmt: skip
        events = jnp.asarray(done.samples[0]).reshape(num_samples, -1)[:, : flow.size]
        events = events.reshape(num_samples, *flow.event_shape)
        shift = log_volume(operator)
        notes = list(done.notes)
        # no bound, no weights
        weighed = not np.isnan(done.info.bound[0])
        if done.info.converged[0] < 1.0:
            lost = round(num_samples * (1.0 - float(done.info.converged[0])))
            notes.append(f"{lost} of {num_samples} constraints were not solved: those samples have weight zero")
        return Outcome(
            samples=events,
            misfit=jax.vmap(lambda y: misfit(measurement, y))(events),
            log_weights=jnp.asarray(done.log_weights[0]) - (shift if weighed else 0.0),
            bound=jnp.asarray(done.info.bound[0]) - shift,
            evaluations=jnp.asarray(done.info.evaluations[0]),
            notes=tuple(notes),
        )

    return Method("constraint", _refuse, run)


def _refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    reason = refuse_unless_linear(measurement)
    if reason is not None or measurement.linear is None:
        return reason
    entrywise = measurement.noise.log_prob is None and is_mask(measurement.linear.observation)
    if has_logit(flow) and not entrywise:
        return (
            "expected a flow without a logit under a measurement that mixes entries: A y of the pixels y is not linear after "
            "a logit; got one with a logit (train with logit=False on dequantised pixels, or measure entries exactly)"
        )
    return None
