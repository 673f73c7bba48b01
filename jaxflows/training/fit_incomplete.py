"""Maximum likelihood, by its bound, on data in which every row may have holes (IVCNF Sec. 4.2.1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised, AmortisedDraw
from jaxflows.conditional.elbo import GradientEstimator, gradient_estimator
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.data.incomplete_rows import check_columns, median_filling, noisy_fill
from jaxflows.flows import Flow
from jaxflows.networks.inference_network import fresh_network, inference_network
from jaxflows.networks.prediction_head import PredictionHead, check_head, fresh_head, reads_events, weighted_moments
from jaxflows.networks.self_masking import SelfMasking, fresh_self_masking
from jaxflows.sharding import Devices
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.robust import quick_solver
from jaxflows.training.fit import initial_params
from jaxflows.training.fit_report import FitReport, fit_report
from jaxflows.training.incomplete_data import IncompleteData, incomplete_data
from jaxflows.training.joint_loss import EXACT_SIZE, IncompleteBatch, draw_rows, joint_loss
from jaxflows.training.loop import RunOptions, dtype_of, mean_loss, run
from jaxflows.training.metrics_writers import MetricsWriter
from jaxflows.training.rows import hold_out
from jaxflows.training.step import Noise, constrained_step, settle

# training rows over which the latents' mean and variance are measured for the head
_HEAD_ROWS = 4096


class IncompleteReport(NamedTuple):
    """What joint training did.

    Attributes:
        run: losses, validations, steps and time. A loss is -L(q) / d in nats per dimension, a bound from above on
            -mean log p(y_observed) / d, of y_observed and mask where the mask is modelled, with the head's weighted
            cross-entropy added in training but not in validation.
        exact: whether the log-determinants in the losses are exact values, as they are for small events, or estimates.
        unconverged: (steps,) share of each step's draws whose constraint was not solved: they carried no gradient.
        evaluations: (steps,) mean block evaluations of a constraint solve.
        cross_entropy: (steps,) of the head in nats a labelled row; empty without one.
        empty_rows: rows with nothing observed, which were skipped, training and validation together.
        labelled_rows: training rows with a label.
    """

    run: FitReport
    exact: bool
    unconverged: np.ndarray
    evaluations: np.ndarray
    cross_entropy: np.ndarray
    empty_rows: int
    labelled_rows: int


def fit_incomplete(
    key: jax.Array,
    flow: Flow,
    data: Any,
    observed: Any,
    *,
    labels: Any = None,
    head_hidden: Sequence[int] = (),
    head_weight: float = 1.0,
    mask_model: str | None = None,
    params: Params | None = None,
    network: Any = None,
    estimator: str | GradientEstimator = "nlade",
    solver: ConstraintSolver | None = None,
    num_samples: int = 1,
    noise: Noise | None = None,
    validation: float | tuple[Any, Any] = 0.1,
    validation_samples: int = 8,
    epochs: int = 50,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    warmup: float = 0.02,
    clip_norm: float = 1.0,
    ema_decay: float = 0.999,
    validate_every: int | None = None,
    patience: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    metrics: str | os.PathLike[str] | MetricsWriter | None = None,
    devices: Devices = None,
    memory_limit: int | str | None = None,
    precision: str | None = None,
) -> tuple[IncompleteModel, IncompleteReport]:
    """Train a flow and an amortised posterior together, on rows with holes.

        maximise  1/d E_rows L(q),
        L(q) = E_q[ log p0(x) + log|det G(y)| - log|det G^HH(y)| - log q(x_hidden) ]  <=  log p(y_observed)

    with q(x_hidden) = P_H (mu + sigma eps) from an inference network that sees the row and its mask. A step draws from q,
    solves the constraint for every draw and moves flow and network together. The mask of a row is fixed once: it belongs to
    the data. Steps, averaging, the settled result and the resumption from checkpoints are those of `jaxflows.fit`.

    Args:
        key: of the initial parameters, the split, the order of rows, noise, draws and probes.
        flow: the model, `jaxflows.flows`.
        data: (n, *event_shape), n >= 1; anything where hidden, NaN too. Integers need ``noise``.
        observed: (n, *event_shape) boolean, True where observed. A row with nothing observed is skipped and counted.
        labels: (n,) integers from 0, or -1 where unknown: train a classifier beside the rest (`jaxflows.predict_labels`), a
            linear map of the latents, as the paper has it, unless there are hidden layers.
        head_hidden: units (vectors) or channels (images) of each hidden layer of the classifier, which then looks at the
            completed event (`jaxflows.networks.prediction_head`).
        head_weight: of its cross-entropy in nats a row, beside the bound in nats a dimension.
        mask_model: 'self_masking' where the chance of an entry to be missing may depend on its own value
            (`jaxflows.networks.self_masking`): ``model.mask`` is trained beside the rest, and the bound becomes one on
            log p(y_observed, mask). Without one the mask is taken to depend on nothing that is missing.
        params: where the flow starts; None for ``flow.init`` followed by data-dependent initialisation on a first batch
            whose holes hold the median and noise.
        network: a flax module as in `jaxflows.networks.inference_network`; None for the default there.
        estimator: of the gradient of log|det G| - log|det G^HH|: 'nlade', 'clade', 'exact', or one made by its factory in
            `jaxflows.conditional.elbo`.
        solver: a `ConstraintSolver`; None for the boundary sweep. A draw it leaves unsolved carries no gradient.
        num_samples: draws a row and step.
        noise: ``(key, batch) -> batch``, as in `fit`, acting on each entry for itself.
        validation: share of the rows to hold out, or ``(data, observed)`` of others.
        validation_samples: draws a row of the validation bound, always the same.
        epochs, batch_size, optimizer, learning_rate, warmup, clip_norm, ema_decay, validate_every, patience,
        checkpoint_dir, checkpoint_every, max_seconds, progress, metrics, devices, memory_limit: as in `fit`.
        precision: as in `fit`, of the products outside of solves: inference network, classifier, and traces in the gradient.
            'bfloat16' computes inference network and classifier in bfloat16 on any device. Solves and what is measured of them
            are in full precision whatever it is.

    Returns:
        ``(model, report)``.

    Raises:
        ValueError, TypeError: arguments or data that do not fit, before anything is compiled: among them a column that was
            never observed and, without ``noise``, one with a single value.
        FloatingPointError: a training loss that is not finite.

    Cost a step: ``batch_size * num_samples`` constraint solves, as many GMRES solves for the implicit gradient, and the
    estimator's (NLADE: two more); for events of up to 32 entries a JVP an entry, for larger ones 24 products with G, for the
    value that is reported. Memory grows with neither depth of solve nor number hidden.

    Example:
        >>> flow = jaxflows.flows.residual(event_shape=(8,), hidden=64)
        >>> model, report = fit_incomplete(jax.random.key(0), flow, table, ~np.isnan(table), epochs=100)
        >>> filled = jaxflows.complete(key, flow, model.params, rows, ~np.isnan(rows), posterior=model.posterior)
    """
    options = RunOptions(
        epochs, batch_size, optimizer, learning_rate, warmup, clip_norm, ema_decay, validate_every, patience, checkpoint_dir,
        checkpoint_every, max_seconds, progress, metrics, devices, memory_limit, precision,
    )  # fmt: skip
    options.check()
    if num_samples < 1 or validation_samples < 1:
        raise ValueError(f"expected num_samples >= 1, validation_samples >= 1; got {num_samples}, {validation_samples}")
    if not (np.isfinite(head_weight) and head_weight >= 0):
        raise ValueError(f"expected a finite head_weight >= 0; got {head_weight}")
    check_head(flow.event_shape, head_hidden, labels is not None)
    if mask_model not in (None, "self_masking"):
        raise ValueError(f"expected mask_model to be None or 'self_masking'; got {mask_model!r}")
    gradient = gradient_estimator(estimator)
    solver = quick_solver(False) if solver is None else solver
    k_init, k_split, k_order, k_step, k_validation, k_head = jax.random.split(key, 6)
    rows = incomplete_data(flow, data, observed, name="data", noisy=noise is not None, labels=labels)
    classes = int(rows.labels.max(initial=-1)) + 1
    if labels is not None and classes == 0:
        raise ValueError("expected a label for some row with something observed; got none")
    if isinstance(validation, tuple):
        held_out = incomplete_data(flow, *validation, name="validation", noisy=noise is not None, columns=False)
        skipped = rows.empty + held_out.empty
    elif np.ndim(validation) != 0:
        raise ValueError("expected validation to be a share of the rows or (data, observed); got an array")
    else:
        numbers, others = hold_out(k_split, np.arange(len(rows.values)), validation)
        rows, held_out, skipped = rows.take(numbers), rows.take(others), rows.empty
        # what is held out may have been all that was seen of a column
        check_columns(rows.values, rows.observed, constants=noise is not None)
    options.check_held_out(len(held_out.values))

    order = options.order(k_order, len(rows.values))
    transformation, schedule = options.transformation(order)
    dtype = jnp.result_type(float) if params is None else dtype_of(params)
    start, posterior = _start(k_init, flow, rows, order.epoch(0)[0], params, network, noise, dtype)
    if labels is not None:
        start["head"] = fresh_head(jax.random.fold_in(k_init, 1), flow.event_shape, classes, head_hidden)
    if mask_model is not None:
        start["mask"] = fresh_self_masking(rows.observed, dtype)

    def loss(
        gradient: GradientEstimator | None, samples: int, parts: int, precision: str | None
    ) -> Callable[..., dict[str, jax.Array]]:
        return joint_loss(
            flow, posterior, estimator=gradient, solver=solver, num_samples=samples, noise=noise, head_weight=head_weight,
            mesh=options.mesh(), parts=parts, precision=precision,
        )  # fmt: skip

    validate = None
    if len(held_out.values):

        def held_out_loss(parts: int) -> Callable[[jax.Array, Any, IncompleteBatch], jax.Array]:
            bound = loss(None, validation_samples, parts, None)
            return lambda k, p, batch: bound(k, {name: part for name, part in p.items() if name != "head"}, batch)["loss"]

        validate = mean_loss(
            options, held_out_loss, k_validation, start, held_out.batch(dtype), len(held_out.values), order.batch_size
        )

    def step(parts: int) -> Any:
        return constrained_step(
            lambda p: {**p, "flow": flow.bijector.constrain(p["flow"])}, loss(gradient, num_samples, parts, precision),
            transformation, schedule, k_step, ema_decay,
        )  # fmt: skip

    description = {
        "flow": flow.bijector.spec, "event_shape": list(flow.event_shape), **rows.digests("data"),
        **held_out.digests("held_out"), "network": repr(posterior.network), "num_samples": num_samples,
        "validation_samples": validation_samples, "head_weight": head_weight, "head_hidden": list(head_hidden),
        "mask_model": mask_model, **options.description(key, order),
    }  # fmt: skip
    state = options.state(start, transformation)
    ended = run(options, order, state, step, rows.batch(dtype), validate, description, "fit incomplete")

    settled = settle(flow, ended.params["flow"])
    posterior = posterior._replace(params=ended.params["network"])
    head = None
    if labels is not None:
        some = rows.take(order.epoch(0).reshape(-1)[:_HEAD_ROWS]).batch(dtype)
        count = min(_HEAD_ROWS, order.steps_per_epoch * order.batch_size)
        draw = jax.jit(
            lambda k, batch: draw_rows(
                k,
                flow,
                settled,
                posterior,
                batch,
                solver=solver,
                num_samples=1,
                noise=noise,
                log_det=lambda *_: jnp.zeros(()),
                parts=ended.parts,
            )
        )
        trained = ended.params["head"]
        head = PredictionHead(trained, *_head_moments(k_head, trained, draw, some, count, order.batch_size))
    measured = ended.done.others or {}
    report = IncompleteReport(
        run=fit_report(ended, float(flow.bijector.lipschitz(settled))),
        exact=flow.size <= EXACT_SIZE,
        unconverged=np.asarray(measured["unconverged"]),
        evaluations=np.asarray(measured["evaluations"]),
        cross_entropy=np.asarray(measured.get("cross_entropy", [])),
        empty_rows=skipped,
        labelled_rows=int(np.sum(rows.labels >= 0)),
    )
    masking = SelfMasking(ended.params["mask"], posterior.centre, posterior.spread) if mask_model is not None else None
    return IncompleteModel(settled, posterior, head, masking), report


def _start(
    key: jax.Array, flow: Flow, rows: IncompleteData, first: np.ndarray, params: Params | None, network: Any,
    noise: Noise | None, dtype: Any,
) -> tuple[dict[str, Any], Amortised]:  # fmt: skip
    """The first parameters of flow and network, and the posterior they belong to."""
    k_flow, k_network, k_noise, k_holes = jax.random.split(key, 4)
    values = np.asarray(rows.values, dtype)
    if noise is not None:
        values = np.asarray(noise(k_noise, jnp.asarray(values)))
    filling = median_filling(values, rows.observed)
    if params is None:
        holes = np.asarray(jax.random.normal(k_holes, (len(first), *flow.event_shape), dtype))
        params = initial_params(k_flow, flow, noisy_fill(values[first], rows.observed[first], filling, holes), None)
    network = inference_network(flow.event_shape) if network is None else network
    weights = fresh_network(k_network, network, flow.event_shape, dtype)
    posterior = Amortised(network, weights, jnp.asarray(filling.centre, dtype), jnp.asarray(filling.spread, dtype))
    return {"flow": params, "network": weights}, posterior


def _head_moments(
    key: jax.Array, head: Params, draw: Callable[[jax.Array, IncompleteBatch], AmortisedDraw],
    batch: Callable[[np.ndarray], IncompleteBatch], count: int, batch_size: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Mean and variance of what the head looks at of rows 0 to count, one draw each."""
    seen, solved = [], []
    for number in range(0, count, batch_size):
        rows = np.arange(number, min(number + batch_size, count))
        drawn = draw(jax.random.fold_in(key, number), batch(rows))
        seen.append(drawn.y[:, 0] if reads_events(head) else drawn.x.reshape(len(rows), -1))
        solved.append(drawn.info.converged.reshape(-1))
    t = jnp.concatenate(seen)
    return weighted_moments(t, jnp.concatenate(solved).astype(t.dtype), head)
