"""Infer an event from measurements of it: one call and one result for every method."""

from __future__ import annotations

import importlib
import math
import time
from typing import Any, NamedTuple

import jax

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.inverse.flow_posterior import FlowPosterior
from jaxflows.inverse.marginal_bound import Marginal
from jaxflows.inverse.method import Method
from jaxflows.inverse.method_table import METHODS
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, check_measurement
from jaxflows.precision import full_precision


class Inference(NamedTuple):
    """What a method found.

    Attributes:
        samples: (S, *event); fewer than were asked for where a point estimator had fewer restarts.
        log_weights: (S,), log p(y, b) - log q(y) up to what all share; zeros where all count alike.
        bound: lower bound on log p(b) in nats, smoothed for methods that smooth; NaN where there is none.
        misfit: (S,), root mean square of A(y) - b before anything measured was pasted into y, in the units of b.
        evaluations: block evaluations spent; a pass with its gradient counts twice.
        seconds: wall time, compilation included where it happened.
        method: its name.
        notes: what was decided without being asked, and what went wrong, in full sentences.
        posterior: the fitted q of a variational method, from which more samples and log q can be had; None otherwise.
        marginal: the marginal bound beside the joint ``bound``, where the method was asked for one; None otherwise.
    """

    samples: jax.Array
    log_weights: jax.Array
    bound: float
    misfit: jax.Array
    evaluations: int
    seconds: float
    method: str
    notes: tuple[str, ...]
    posterior: FlowPosterior | None
    marginal: Marginal | None


@full_precision
def infer(
    key: jax.Array,
    flow: Flow,
    params: Params,
    measurement: NoisyMeasurement,
    *,
    method: str | Method = "constraint",
    num_samples: int = 16,
) -> Inference:
    """Draw from p(y | b), b ~ p(b | A(y)) having been measured and y being of the flow; or guess at y.

    Conditioning a flow is NP-hard in general (docs/hardness.md): every method approximates, and `Inference` tells how well.

    Args:
        key: random key, used once.
        flow: the flow, static.
        params: its parameters.
        measurement: from `jaxflows.inverse.noisy_measurement`.
        method: a name of `METHODS`, with that method's defaults; or made by its factory in `jaxflows.inverse`. 'gaussian' and
            'amortised' have no default: their factories take the Gaussian, or the pre-generator.
        num_samples: S.

    Returns:
        `Inference`. 'csgm', 'asim', 'map' and 'sparse' give points and not samples.

    Raises:
        ValueError: an unknown method, a measurement of other events, or one the method cannot serve, before any work.

    Example:
        >>> operator = jaxflows.measurements.average_pooling((28, 28), 2)
        >>> reading = jaxflows.inverse.noisy_measurement(operator, b, noise=jaxflows.inverse.noise.gaussian(0.05))
        >>> jaxflows.infer(jax.random.key(0), flow, params, reading).samples.shape
        (16, 28, 28)
    """
    chosen = find_method(method)
    if num_samples < 1:
        raise ValueError(f"expected num_samples >= 1; got {num_samples}")
    check_measurement(flow, measurement)
    reason = chosen.refuse(flow, measurement)
    if reason is not None:
        raise ValueError(f"method {chosen.name!r} cannot serve this: {reason}")
    began = time.perf_counter()
    outcome = jax.block_until_ready(chosen.run(key, flow, params, measurement, num_samples))
    seconds = time.perf_counter() - began
    bound = float(outcome.bound)
    return Inference(
        samples=outcome.samples,
        log_weights=outcome.log_weights,
        bound=bound if math.isfinite(bound) else math.nan,
        misfit=outcome.misfit,
        evaluations=int(outcome.evaluations),
        seconds=seconds,
        method=chosen.name,
        notes=outcome.notes,
        posterior=outcome.posterior,
        marginal=outcome.marginal,
    )


def find_method(choice: str | Method) -> Method:
    """Look a method up by name; one made by a factory passes through."""
    if isinstance(choice, Method):
        return choice
    if choice not in METHODS:
        raise ValueError(f"expected a method of {sorted(METHODS)}, or one made by its factory; got {choice!r}")
    return factory_of(choice)()


def factory_of(name: str) -> Any:
    """The factory of a method in the table."""
    module, attribute = METHODS[name]
    return getattr(importlib.import_module(f"jaxflows.inverse.{module}"), attribute)
