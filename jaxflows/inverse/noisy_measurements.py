"""What was measured, what was read, and how noisy the reading is: one object for every method of `jaxflows.infer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxflows.flows import Flow
from jaxflows.inverse.noise import Noise, none, normal_log_prob
from jaxflows.observation import LinearMeasurement


class NoisyMeasurement(NamedTuple):
    """b ~ p(b | A(y)), a pytree of arrays.

    Attributes:
        measure: ``y -> A(y)``, (m,), differentiable.
        values: b, (m,).
        noise: p(b | A(y)).
        linear: the factorised operator where A is linear, None otherwise.
    """

    measure: Callable[[jax.Array], jax.Array]
    values: jax.Array
    noise: Noise
    linear: LinearMeasurement | None


def noisy_measurement(
    operator: LinearMeasurement | Callable[[jax.Array], jax.Array], values: Any, *, noise: Noise | None = None
) -> NoisyMeasurement:
    """Check and hold what was read.

    Args:
        operator: from `jaxflows.measurements` or `jaxflows.observe.linear`; or any differentiable function from one event to
            m numbers, which is then not taken for linear even where it is.
        values: b, (m,), finite.
        noise: a model of `jaxflows.inverse.noise`; none when None.

    Raises:
        ValueError: values of another shape, not finite, or that the noise model cannot produce; a width of the noise that is
            neither one number nor one a measurement.
    """
    noise = none() if noise is None else noise
    linear = operator if isinstance(operator, LinearMeasurement) else None
    b = np.asarray(values)
    if b.ndim != 1 or not (np.issubdtype(b.dtype, np.floating) or np.issubdtype(b.dtype, np.integer)):
        raise ValueError(f"expected real measurements of shape (m,); got {b.dtype} of shape {b.shape}")
    if linear is not None and b.size != _count(linear):
        raise ValueError(f"expected {_count(linear)} measurements, as many as the operator makes; got {b.size}")
    if not np.all(np.isfinite(b)):
        position = int(np.argmin(np.isfinite(b)))
        raise ValueError(f"expected finite measurements; got {b[position]} at position {position}")
    if noise.sigma is not None and noise.sigma.shape not in ((), b.shape):
        raise ValueError(f"expected one sigma, or {b.size} of them, one a measurement; got {noise.sigma.size}")
    read = jnp.asarray(b, jnp.result_type(float))
    if noise.log_prob is not None and not np.isfinite(_log_prob_of_itself(noise, read)):
        raise ValueError(f"expected measurements that the noise model can produce; got {b}, which it cannot")
    return NoisyMeasurement(Partial(operator) if linear is None else linear.measure, read, noise, linear)


@jax.jit
def _log_prob_of_itself(noise: Noise, b: jax.Array) -> jax.Array:
    assert noise.log_prob is not None
    return noise.log_prob(b, b)


def _count(linear: LinearMeasurement) -> int:
    return int(np.sum(linear.observation.observed))


def check_measurement(flow: Flow, measurement: NoisyMeasurement) -> None:
    """Raise ValueError when a measurement is not of the flow's events."""
    if measurement.linear is not None and measurement.linear.observation.observed.shape != flow.event_shape:
        shape = measurement.linear.observation.observed.shape
        raise ValueError(f"expected a measurement of events of shape {flow.event_shape}; got one of {shape}")
    made = jax.eval_shape(measurement.measure, jax.ShapeDtypeStruct(flow.event_shape, measurement.values.dtype))
    if tuple(jnp.shape(made)) != measurement.values.shape:
        raise ValueError(
            f"expected as many measurements as the operator makes of an event, {tuple(jnp.shape(made))}; "
            f"got {measurement.values.shape}"
        )


def residual(measurement: NoisyMeasurement, y: jax.Array) -> jax.Array:
    """How far A(y) is from what b stands for, (m,)."""
    return measurement.noise.residual(measurement.values, measurement.measure(y))


def misfit(measurement: NoisyMeasurement, y: jax.Array) -> jax.Array:
    """The residual's root mean square, in the units of the measurements."""
    return jnp.sqrt(jnp.mean(residual(measurement, y) ** 2))


def log_likelihood(measurement: NoisyMeasurement, sigma: Any, y: jax.Array) -> jax.Array:
    """log p(b | y) in nats; without noise that of Gaussian noise of width ``sigma``, the supplement's smoothing (Eq. 4)."""
    if measurement.noise.log_prob is None:
        return normal_log_prob(jnp.asarray(sigma, measurement.values.dtype), residual(measurement, y))
    return measurement.noise.log_prob(measurement.values, measurement.measure(y))
