"""One step of maximum likelihood as a pure function of (state, batch, step number, schedule position)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.log_det.estimators import Estimator
from jaxflows.sharding import by_rows

Noise = Callable[[jax.Array, jax.Array], jax.Array]


class TrainState(NamedTuple):
    """All that changes from step to step, and all that a checkpoint holds of the model.

    Attributes:
        raw: what the optimizer moves; the flow's parameters are ``constrain(raw)``.
        optimizer: state of the optax transformation.
        average: exponential moving average of the parameters, inside the constraint because a norm is convex.
        best: the average of the best validation so far; None when there is no early stop.
    """

    raw: Params
    optimizer: Any
    average: Params
    best: Params | None


def negative_log_likelihood(
    flow: Flow, estimator: Estimator, noise: Noise | None, mesh: Mesh | None = None, parts: int = 1
) -> Callable[..., jax.Array]:
    """The loss ``(key, params, batch) -> -mean log p(y) / d`` in nats per dimension, batch of shape (b, *event_shape).

    Every row has its own probes; noise is added to the batch first. Rows are shared out over ``mesh``, and each device takes
    its own in ``parts`` micro-batches.
    """

    def log_probs(params: Params, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.vmap(lambda k, t: flow.estimate_log_prob(k, params, t, estimator).value)(*rows)

    def loss(key: jax.Array, params: Params, batch: jax.Array) -> jax.Array:
        k_noise, k_probe = jax.random.split(key)
        y = batch if noise is None else noise(k_noise, batch)
        keys = jax.random.split(k_probe, batch.shape[0])
        return -jnp.mean(by_rows(log_probs, mesh, parts)(params, (keys, y))) / flow.size

    return loss


def training_step(
    flow: Flow,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array] | None,
    key: jax.Array,
    ema_decay: float,
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, jax.Array]]:
    """`constrained_step` for the parameters of a flow alone."""
    return constrained_step(flow.bijector.constrain, loss, optimizer, schedule, key, ema_decay)


def constrained_step(
    constrain: Callable[[Params], Params],
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array] | None,
    key: jax.Array,
    ema_decay: float,
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, Any]]:
    """A jitted ``(state, batch, step, position) -> (state, losses)``; the state passed in is donated.

    The loss is that of ``constrain(raw)``, differentiated through W / max(1, ||W|| / bound): a push that would only
    scale W up then has no gradient. Projecting after each update instead has wrong stationary points: the
    outward push on the leading singular direction makes every projection shrink all the others, a decay that no
    learning rate removes. The step's key is ``fold_in(key, step)``, so a resumed run needs no generator state.

    Args:
        constrain: `Bijector.constrain` on what the parameters hold of a flow.
        loss: ``(key, params, batch) -> scalar``, or a dictionary of scalars of which "loss" is minimised; returned as it is.
        optimizer: an optax transformation.
        schedule: ``position -> learning rate``, multiplied onto the updates with a minus sign; None when the
            optimizer holds its own.
        key: of noise and probes.
        ema_decay: the average's decay a step; (1 + t) / (10 + t) at step t while that is less.
    """

    def step(state: TrainState, batch: Any, number: jax.Array, position: jax.Array) -> tuple[TrainState, Any]:
        def constrained(raw: Params) -> tuple[jax.Array, tuple[Any, Params]]:
            params = constrain(raw)
            losses = loss(jax.random.fold_in(key, number), params, batch)
            return losses["loss"] if isinstance(losses, dict) else losses, (losses, params)

        (_, (losses, params)), gradient = jax.value_and_grad(constrained, has_aux=True)(state.raw)
        updates, memory = optimizer.update(gradient, state.optimizer, state.raw)
        if schedule is not None:
            rate = schedule(position)
            updates = jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates)
        raw = optax.apply_updates(renewed(state.raw, params), updates)
        keep = jnp.minimum(ema_decay, (1.0 + number) / (10.0 + number))
        average = optax.incremental_update(params, state.average, 1.0 - keep)
        return TrainState(raw, memory, average, state.best), losses

    return jax.jit(step, donate_argnums=0)


def renewed(raw: Params, params: Params) -> Params:
    """``raw`` with the power-iteration vectors, named "top" throughout, that the projection renewed."""

    def choose(path: Any, ours: jax.Array, theirs: jax.Array) -> jax.Array:
        return theirs if getattr(path[-1], "key", None) == "top" else ours

    return jax.tree_util.tree_map_with_path(choose, raw, params)


@functools.partial(jax.jit, static_argnums=(0, 2))
def settle(flow: Flow, params: Params, iterations: int = 200) -> Params:
    """Apply `Bijector.constrain` until its power iterations have caught up, so that the certified bound holds.

    A few iterations a step follow slowly moving weights with a small lag, and the average of parameters carries an
    average of power vectors.

    Cost: ``iterations`` applications of every operator and its transpose.
    """
    return jax.lax.fori_loop(0, iterations, lambda _, q: flow.bijector.constrain(q), params)
