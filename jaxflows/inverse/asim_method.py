"""Least squares from the latent's centre (Asim, Daniels, Leong, Ahmed and Hand 2020): a point estimate without a prior."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.latent import decode_all
from jaxflows.inverse.method import Method, Outcome, check_positive, serve_all, unweighted
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, residual
from jaxflows.inverse.point_search import point_note


@factory
def asim(*, steps: int = 100, memory: int = 10) -> Method:
    """Least squares by L-BFGS; ONE point, whatever the number of samples asked for.

        argmin_z |A(f(z)) - b|^2  from  z_0 = 0

    The objective holds no prior: it enters by where the search begins and by how early it stops.

    Args:
        steps: of L-BFGS.
        memory: pairs it keeps.

    Cost: 2 decodes an evaluation of the objective with its gradient, which the line search takes one or several of a step.
    """
    check_positive(steps=steps, memory=memory)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        del key, num_samples
        z, spent = _descend(flow, steps, memory, params, measurement)
        events, evaluations = decode_all(flow, params, z[None])
        return unweighted(measurement, events, spent + evaluations, point_note(1, 1))

    return Method("asim", serve_all, run)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(flow: Flow, steps: int, memory: int, params: Params, measurement: NoisyMeasurement) -> tuple[jax.Array, jax.Array]:
    optimizer = optax.lbfgs(memory_size=memory)

    def squares(z: jax.Array) -> jax.Array:
        return jnp.sum(residual(measurement, flow.decode(params, z)[0]) ** 2)

    # the line search has the value and the gradient of the point it accepts: they are not computed again
    value_and_grad = optax.value_and_grad_from_state(squares)

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        z, state = carry
        value, gradient = value_and_grad(z, state=state)
        updates, state = optimizer.update(gradient, state, z, value=value, grad=gradient, value_fn=squares)
        tried = optax.tree_utils.tree_get(state, "info").num_linesearch_steps
        return (optax.apply_updates(z, updates), state), tried

    start = jnp.zeros(flow.latent_shape)
    (z, _), tried = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    a_decode = flow.decode(params, z)[1].evaluations
    return z, 2 * a_decode * (1 + jnp.sum(tried))
