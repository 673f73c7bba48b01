"""What the training benchmarks do after training: ship the model in half precision, score it as shipped, tabulate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results_file import environment, write_results
from jaxflows import persistence
from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.training.evaluate import LogLikelihood, flow_log_likelihood, gaussian_log_likelihood
from jaxflows.training.fit import FitReport

Row = dict[str, Any]


def score_row(model: str, score: LogLikelihood, levels: int, **more: Any) -> Row:
    """One line of the table; ``bits_per_dim_levels`` counts bits when a unit of data is cut into ``levels`` steps."""
    return {
        "model": model, "test_rows": score.rows, "nats_per_dim": score.nats, "nats_std_error": score.std_error,
        "bits_per_dim": score.bits(), "bits_per_dim_levels": score.bits(levels), "levels": levels,
        "truncation_bound": score.truncation_bound, **more,
    }  # fmt: skip


def ship_and_score(
    name: str,
    flow: Flow,
    params: Params,
    report: FitReport,
    *,
    test: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    levels: int,
    about: dict[str, Any],
    seeds: list[int],
    output: Path,
    keep: Path,
    directory: Path,
    score: Callable[[Flow, Params, jax.Array], LogLikelihood] = flow_log_likelihood,
) -> list[Row]:
    """Save the parameters in full beside the run and in half to ``output``, and score the latter as loaded again.

    Args:
        name: of the results file.
        flow: the model.
        params: its parameters, as `jaxflows.training.fit.fit` gave them.
        report: of that fit.
        test: (n, *event_shape) noisy test rows.
        mean: of noisy training rows (d,), for the Gaussian baseline on the same test rows.
        covariance: of noisy training rows (d, d).
        levels: steps a unit of data is cut into, for bits per dimension of the original integers.
        about: the data and settings, kept in the model's metadata and in every row's environment.
        seeds: every seed used.
        output: where the shipped model goes.
        keep: where the float32 parameters go.
        directory: where the results file goes.
        score: how the flow's log-density of rows is taken.

    Returns:
        The rows written: the flow's and the Gaussian's.
    """
    keep.parent.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    persistence.save(keep, flow, params, metadata=about)
    persistence.save(output, flow, params, metadata=about, dtype="float16")
    _, shipped, _ = persistence.load(output)
    training = {
        "steps": report.steps, "seconds": report.seconds, "stopped": report.stopped,
        "lipschitz": float(flow.bijector.lipschitz(shipped)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shipped)),
    }  # fmt: skip
    rows = [
        score_row("flow", score(flow, shipped, jnp.asarray(test, jnp.float32)), levels, **training),
        score_row("gaussian", gaussian_log_likelihood(mean, covariance, test), levels),
    ]
    metadata = {**about, "test": rows, "environment": environment(seeds=seeds)}
    persistence.save(output, flow, params, metadata=metadata, dtype="float16")
    write_results(name, rows, seeds=seeds, directory=directory)
    return rows
