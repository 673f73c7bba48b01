"""The gradient of the bound: CLADE and NLADE, with and without the path derivative, against the exact gradient.

    python -m benchmarks.gradient_estimators            # a few minutes on two cores
    python -m benchmarks.gradient_estimators --quick    # dimension 4 alone, 200 draws; written to runs/

The gradient is that of log w(eps; theta) in theta = (mu, log sigma) of a mean-field posterior moved off the Gauss-Newton
start. Each draw eps is estimated and also differentiated exactly, so that the difference is the estimator's error alone:
``bias_z_max`` is the largest |mean error| in its own standard errors over all components; ``relative_std`` the root mean
square error over the norm of the exact gradient's mean; ``ms`` one gradient, compiled, in a batch of 64.
``error_per_second`` is relative_std sqrt(ms), which averaging n estimates in a given time divides by sqrt(n): the smaller the
better. Rows 'exact, path' and 'exact, full' have no trace estimate: their relative_std is the spread over eps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results_file import RESULTS, Row, write_results
from jaxflows import flows
from jaxflows.conditional import elbo, posteriors
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.log_det.estimators import power_series, russian_roulette
from jaxflows.observation import mask
from jaxflows.solvers.boundary_sweep import boundary_sweep

BATCH = 64
# the power series at coefficient 0.9 needs this many terms for a bias below the standard error of 2,000 draws
TERMS = 60


def estimators(probes: int) -> dict[str, elbo.GradientEstimator]:
    """The estimators compared, by name."""
    return {
        "clade, power series": elbo.clade(probes=probes, log_det=power_series(terms=TERMS, probes=probes)),
        "clade, roulette": elbo.clade(probes=probes, log_det=russian_roulette(probes=probes)),
        "nlade": elbo.nlade(probes=probes),
    }


def problem(size: int) -> tuple[Callable[..., jax.Array], jax.Array]:
    """``(gradient, theta)``: ``gradient(key, estimator, path_derivative)`` of the log-weight at the draw eps of ``key``."""
    flow = flows.residual(event_shape=(size,), blocks=4, hidden=2 * size, coeff=0.9)
    params = flow.init(jax.random.key(size))
    y = jax.jit(lambda k: flow.sample(k, params, 1)[0])(jax.random.key(1))
    where = hidden(mask(jnp.arange(size) % 2 == 0), size // 2)
    known = where.observation.observed_part(y)
    start = jax.jit(lambda known: gauss_newton_reference(flow, params, where, known))(known)
    family = posteriors.mean_field()
    theta = family.init(jax.random.key(2), size // 2)
    theta = {**theta, "mu": theta["mu"] + 0.3, "log_sigma": theta["log_sigma"] + 0.2}
    flat, unravel = jax.flatten_util.ravel_pytree(theta)

    def gradient(key: jax.Array, estimator: elbo.GradientEstimator, path_derivative: bool) -> jax.Array:
        k_eps, k_trace = jax.random.split(key)
        eps = jax.random.normal(k_eps, (size // 2,))

        def log_weight(flat: jax.Array) -> jax.Array:
            def log_det(t: jax.Array) -> jax.Array:
                return estimator(k_trace, flow, params, where, t)

            solver = boundary_sweep(tol=1e-6)
            return elbo.draw(
                eps, flow, params, where, known, family, unravel(flat), start, solver, log_det, path_derivative
            ).log_weight

        return jax.grad(log_weight)(flat)

    return gradient, flat


def timed(run: Callable[[jax.Array], jax.Array], draws: int, seed: int) -> tuple[np.ndarray, float]:
    """All draws' gradients in batches of 64, and the milliseconds of one."""
    keys = jax.random.split(jax.random.key(seed), draws + (-draws) % BATCH).reshape(-1, BATCH)
    compiled = jax.jit(jax.vmap(run)).lower(keys[0]).compile()
    jax.block_until_ready(compiled(keys[0]))
    began = time.perf_counter()
    batches = [np.asarray(compiled(k)) for k in keys]
    return np.concatenate(batches).astype(np.float64), 1e3 * (time.perf_counter() - began) / keys.size


def score(name: str, size: int, probes: int, error: np.ndarray, truth: np.ndarray, ms: float) -> Row:
    """One row: bias in standard errors, spread, cost, and error at equal time."""
    standard = error.std(axis=0, ddof=1) / np.sqrt(len(error))
    # below rounding of the solves there is no standard error to speak of
    floor = 1e-4 * np.abs(truth).max()
    z = np.abs(error.mean(axis=0)) / np.maximum(standard, floor)
    spread = float(np.sqrt((error**2).sum(axis=1).mean()) / np.linalg.norm(truth.mean(axis=0)))
    return {
        "estimator": name, "dimension": size, "probes": probes, "draws": len(error), "bias_z_max": float(z.max()),
        "relative_std": spread, "ms": ms, "error_per_second": spread * float(np.sqrt(ms)),
    }  # fmt: skip


def rows_of(size: int, draws: int) -> list[Row]:
    """All estimators at one dimension."""
    gradient, _ = problem(size)
    rows: list[Row] = []
    exact: dict[bool, np.ndarray] = {}
    for path in (True, False):
        exact[path], ms = timed(lambda k, path=path: gradient(k, elbo.exact(), path), draws, size)
        centred = exact[path] - exact[path].mean(axis=0)
        rows.append(score(f"exact, {'path' if path else 'full'}", size, 0, centred, exact[path], ms))
    gap = exact[True] - exact[False]
    rows.append(score("path minus full", size, 0, gap, exact[True], 0.0))
    for probes in (1, 4):
        for name, estimator in estimators(probes).items():
            values, ms = timed(lambda k, e=estimator: gradient(k, e, True), draws, size)
            rows.append(score(name, size, probes, values - exact[True], exact[True], ms))
    return rows


def main() -> None:
    """Compare at every dimension and write results/gradient_estimators.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.gradient_estimators", description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=2048)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    sizes, draws = ((4,), 200) if options.quick else ((4, 16, 64), options.draws)
    rows: list[dict[str, Any]] = [row for size in sizes for row in rows_of(size, draws)]
    write_results("gradient_estimators", rows, seeds=[1, 2, *sizes], directory=Path("runs") if options.quick else RESULTS)


if __name__ == "__main__":
    main()
