"""What every method of `jaxflows.infer` is: a name, whom it serves, and a function of a key, a flow and a measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.inverse.flow_posterior import FlowPosterior
from jaxflows.inverse.marginal_bound import Marginal
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, misfit


class Outcome(NamedTuple):
    """What a method found; `jaxflows.inverse.infer.Inference` explains the fields.

    Attributes:
        samples: (S, *event).
        misfit: (S,), of the events before anything measured was pasted into them.
        log_weights: (S,).
        bound: on log p(b), in nats; NaN where there is none.
        evaluations: block evaluations.
        notes: full sentences.
        posterior: the fitted q of a variational method.
        marginal: its marginal bound, where asked for.
    """

    samples: jax.Array
    misfit: jax.Array
    log_weights: jax.Array
    bound: jax.Array
    evaluations: jax.Array
    notes: tuple[str, ...]
    posterior: FlowPosterior | None = None
    marginal: Marginal | None = None


class Method(NamedTuple):
    """A way to draw from p(y | b), or to guess at y.

    Attributes:
        name: its name in the table of methods.
        refuse: ``(flow, measurement) -> reason it cannot serve them, "expected ...; got ..."``, or None where it can.
        run: ``(key, flow, params, measurement, num_samples) -> Outcome``.
    """

    name: str
    refuse: Callable[[Flow, NoisyMeasurement], str | None]
    run: Callable[[jax.Array, Flow, Params, NoisyMeasurement, int], Outcome]


def serve_all(flow: Flow, measurement: NoisyMeasurement) -> str | None:
    """The ``refuse`` of a method that needs no more than A(f(z)) and its gradient."""
    del flow, measurement
    return None


def refuse_unless_linear(measurement: NoisyMeasurement) -> str | None:
    """Why a method that needs a linear measurement, exact or with Gaussian noise, cannot serve this one; None where it can."""
    if measurement.linear is None:
        return "expected a linear measurement; got a function (declare a linear one by `jaxflows.observe.linear`)"
    if measurement.noise.log_prob is not None and measurement.noise.sigma is None:
        return "expected a measurement without noise or with Gaussian noise; got another noise model"
    return None


def has_logit(flow: Flow) -> bool:
    """Whether the flow's events are confined to (0, 1) by a logit."""
    return '"bijector": "logit"' in flow.bijector.spec


def check_positive(**options: Any) -> None:
    """Raise ValueError for an option that is not greater than zero."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"expected {name} > 0; got {value}")


def unweighted(measurement: NoisyMeasurement, events: jax.Array, evaluations: jax.Array, *notes: str) -> Outcome:
    """The outcome of a method whose events all count alike and which bounds nothing."""
    fit = jax.vmap(lambda y: misfit(measurement, y))(events)
    nan = jnp.full((), jnp.nan, events.dtype)
    return Outcome(events, fit, jnp.zeros(len(events), events.dtype), nan, evaluations, notes)
