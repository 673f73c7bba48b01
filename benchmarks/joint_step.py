"""One step of joint training on rows with holes, and its parts, as programs that can be timed apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.elbo import gradient_estimator
from jaxflows.data.incomplete_rows import check_columns, median_filling, noisy_fill
from jaxflows.flows import Flow
from jaxflows.networks.inference_network import fresh_network, inference_network
from jaxflows.sharding import Devices, replicated, row_mesh, shared_out
from jaxflows.solvers.robust import quick_solver
from jaxflows.training.fit import initial_params
from jaxflows.training.joint_loss import IncompleteBatch, draw_rows, joint_loss
from jaxflows.training.loop import RunOptions, copy
from jaxflows.training.step import TrainState, constrained_step


class JointStep(NamedTuple):
    """A step of `jaxflows.fit_incomplete` with NLADE and one draw a row.

    Attributes:
        step: ``(state, batch, number, position) -> (state, losses)``, jitted; the state is donated.
        gradient: ``(raw, batch) -> gradient`` of the step's loss, jitted.
        solve: ``(raw, batch) -> evaluations``: draws and constraint solves alone, jitted.
        state: before the first step.
        batch: the rows of every step, on their devices.
    """

    step: Callable[..., Any]
    gradient: Callable[[Any, IncompleteBatch], Any]
    solve: Callable[[Any, IncompleteBatch], jax.Array]
    state: TrainState
    batch: IncompleteBatch


def joint_step(flow: Flow, rows: np.ndarray, observed: np.ndarray, *, devices: Devices = None) -> JointStep:
    """The step of `jaxflows.fit_incomplete` on one batch.

    Args:
        flow: the flow.
        rows: (b, *event), float32, finite.
        observed: (b, *event) boolean.
        devices: over which rows are shared out.

    Raises:
        ValueError: a column never observed.
    """
    check_columns(rows, observed, constants=False)
    mesh: Mesh | None = row_mesh(devices, jax.devices())
    k_flow, k_network, k_step = jax.random.split(jax.random.key(0), 3)
    filling = median_filling(rows, observed)
    normal = np.random.default_rng(0).standard_normal(rows.shape).astype(np.float32)
    params = initial_params(k_flow, flow, noisy_fill(rows, observed, filling, normal), None)
    network = inference_network(flow.event_shape)
    weights = fresh_network(k_network, network, flow.event_shape, jnp.float32)
    posterior = Amortised(network, weights, jnp.asarray(filling.centre), jnp.asarray(filling.spread))
    options = RunOptions(1000, len(rows), None, 1e-3, 0.0, 1.0, 0.999, None, None, None, None, None, False, None, devices)
    optimizer, schedule = options.transformation(options.order(k_step, len(rows)))
    state = replicated(options.state({"flow": params, "network": weights}, optimizer), mesh)
    batch = IncompleteBatch(jnp.asarray(rows), jnp.asarray(observed), jnp.full(len(rows), -1, jnp.int32))
    solver = quick_solver(False)

    def constrain(raw: Any) -> Any:
        return {**raw, "flow": flow.bijector.constrain(raw["flow"])}

    loss = joint_loss(
        flow, posterior, estimator=gradient_estimator("nlade"), solver=solver, num_samples=1, noise=None, head_weight=0.0,
        mesh=mesh,
    )  # fmt: skip

    def solve(raw: Any, batch: IncompleteBatch) -> jax.Array:
        drawn = draw_rows(
            k_step, flow, raw["flow"], posterior._replace(params=raw["network"]), batch, solver=solver, num_samples=1,
            log_det=lambda *_: jnp.zeros(()), mesh=mesh,
        )  # fmt: skip
        return drawn.info.evaluations

    return JointStep(
        step=constrained_step(constrain, loss, optimizer, schedule, k_step, options.ema_decay),
        gradient=jax.jit(jax.grad(lambda raw, batch: loss(k_step, constrain(raw), batch)["loss"])),
        solve=jax.jit(solve),
        state=state,
        batch=shared_out(batch, mesh),
    )


class Timing(NamedTuple):
    """How long steps take.

    Attributes:
        seconds: the median of a step.
        losses: of the last step.
        state: after it.
    """

    seconds: float
    losses: dict[str, float]
    state: TrainState


def lowered_step(joint: JointStep) -> Any:
    """The step, to be compiled."""
    return joint.step.lower(joint.state, joint.batch, np.int32(0), np.float32(0))


def timed_steps(joint: JointStep, program: Any, steps: int) -> Timing:
    """Take ``steps`` steps of a compiled step after one to warm up, and time each."""
    state, seconds, losses = copied(joint.state), [], {}
    for number in range(steps + 1):
        began = time.perf_counter()
        state, losses = jax.block_until_ready(program(state, joint.batch, np.int32(number), np.float32(number)))
        seconds.append(time.perf_counter() - began)
    return Timing(float(np.median(seconds[1:])), {name: float(value) for name, value in losses.items()}, state)


def copied(state: TrainState) -> TrainState:
    """A state of the same numbers that a step may take for its own."""
    return jax.tree.map(lambda leaf: jax.device_put(copy(leaf), leaf.sharding), state)


def median_seconds(function: Callable[..., Any], *arguments: Any, repeats: int) -> float:
    """Of a function, the first call left out."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
