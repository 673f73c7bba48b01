"""How good the posteriors are: against closed forms, against quadrature, and on digits.

    python -m benchmarks.posterior_quality            # a few minutes on two cores
    python -m benchmarks.posterior_quality --only digits    # one case; the others keep their rows
    python -m benchmarks.posterior_quality --quick    # about a minute, nothing written to results/

Cases: (a) 'linear': affine residual flows, every mask of d <= 6, float32, against the Schur complement; (b) 'plane': a 2-D
flow against quadrature, KL of resampled draws; (c) 'digits': the shipped 64-dimensional digits flow, 8 rows.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow, plane_flow
from benchmarks.results_file import RESULTS, read_rows, write_results
from jaxflows import persistence
from jaxflows.conditional import posteriors
from jaxflows.conditional.complete import complete
from jaxflows.conditional.fit_posterior import Fitted, fit_posterior
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.posteriors import Posterior
from jaxflows.conditional.sample import draw_samples
from jaxflows.flows import Flow
from jaxflows.observation import mask

DIGITS = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "digits_residual.safetensors"
MISSING = (0.3, 0.5, 0.9)


def linear_rows(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Largest error of conditional mean and covariance over every mask that hides something, a row a dimension."""
    rows = []
    for size in sizes:
        flow, params = linear_flow(size, seed=size)
        mean, covariance = gaussian_of(flow, params)
        masks = np.array([m for m in itertools.product([False, True], repeat=size) if not all(m)])
        y = np.random.default_rng(size).standard_normal(size).astype(np.float32)

        error = 0.0
        for observed, anchor, spread in zip(masks, *_references(flow, params, masks, y), strict=True):
            # hidden slots come first and in the order of the coordinates
            factor = spread[: (~observed).sum(), : (~observed).sum()]
            centre, spreads = conditional_of(mean, covariance, observed, y)
            error = max(error, np.abs(anchor[~observed] - centre).max(), np.abs(factor @ factor.T - spreads).max())
        rows.append({"case": f"linear d={size}, {len(masks)} masks", "posterior": "gauss_newton", "error_max": float(error)})
    return rows


def _references(flow: Flow, params: Any, masks: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Anchors and spreads of the Gauss-Newton posterior, one a mask."""

    def one(observed: jax.Array) -> tuple[jax.Array, jax.Array]:
        reference = gauss_newton_reference(flow, params, hidden(mask(observed)), jnp.where(observed, y, 0.0))
        return reference.anchor, reference.spread

    anchors, spreads = jax.jit(jax.vmap(one))(jnp.asarray(masks))
    return np.asarray(anchors), np.asarray(spreads)


def quadrature(flow: Flow, params: Any, first: float, grid: np.ndarray) -> np.ndarray:
    """log p(y_2 | y_1 = first) on an even grid, normalised by the trapezoid sum."""
    points = jnp.stack([jnp.full(len(grid), first), jnp.asarray(grid)], axis=1)
    log_p = np.asarray(jax.jit(jax.vmap(lambda y: flow.log_prob(params, y)))(points), np.float64)
    density = np.exp(log_p - log_p.max())
    return log_p - log_p.max() - np.log(density.sum() * (grid[1] - grid[0]))


def plane_rows(draws: int) -> list[dict[str, Any]]:
    """KL of the histogram of resampled draws from the exact conditional, at several observed values."""
    flow, params = plane_flow(0)
    rows = []
    edges = np.linspace(-4, 4, 81)
    fine = np.linspace(-4, 4, 80 * 50 + 1)
    step = fine[1] - fine[0]
    for first in (-1.0, 0.0, 0.5, 1.0, 2.0):
        log_p = quadrature(flow, params, first, fine)
        density = np.exp(log_p)
        truth = np.add.reduceat(0.5 * (density[1:] + density[:-1]) * step, np.arange(0, 4000, 50))
        row, observed = np.array([[first, 0.0]], np.float32), np.array([[True, False]])
        done = complete(jax.random.key(1), flow, params, row, observed, num_samples=draws, progress=False)
        picked = done.resampled(jax.random.key(2), draws)[0, :, 1]
        counts = np.histogram(picked, edges)[0] / draws
        seen = counts > 0
        kl = float(np.sum(counts[seen] * np.log(counts[seen] / np.maximum(truth[seen], 1e-300))))
        log_evidence = np.log(np.sum(np.exp(np.asarray(_joint(flow, params, first, fine)))) * step)
        rows.append(
            {
                "case": f"plane y1={first}", "posterior": f"gauss_newton, {done.info.partition[0]}, resampled", "kl_nats": kl,
                "elbo_end": float(done.info.bound[0]), "iw_bound": float(done.info.iw_bound[0]),
                "error_max": abs(float(done.info.iw_bound[0]) - log_evidence),
                "ess_fraction": float(done.info.ess[0]) / draws,
            }
        )  # fmt: skip
    return rows


def _joint(flow: Flow, params: Any, first: float, grid: np.ndarray) -> jax.Array:
    points = jnp.stack([jnp.full(len(grid), first), jnp.asarray(grid)], axis=1)
    return jax.jit(jax.vmap(lambda y: flow.log_prob(params, y)))(points)


def digits_problem(missing: float, count: int) -> tuple[Flow, Any, np.ndarray, np.ndarray]:
    """The shipped digits flow, ``count`` samples of it, and masks that hide each entry with chance ``missing``."""
    flow, params, _ = persistence.load(DIGITS)
    # drawn from the flow itself: the posterior is then the flow's own, whatever its fit to real digits
    rows = np.asarray(jax.jit(lambda k: flow.sample(k, params, count))(jax.random.key(3)))
    observed = np.random.default_rng(4).random(rows.shape) >= missing
    return flow, params, rows, observed


def digits_rows(count: int, steps: int) -> list[dict[str, Any]]:
    """Gauss-Newton, then Householder(20) and full rank from there, with the prior as q beside them."""
    rows = []
    for missing in MISSING:
        flow, params, events, observed = digits_problem(missing, count)
        key = jax.random.key(5)
        starts = {}
        for posterior in (posteriors.prior(), posteriors.gauss_newton()):
            complete(key, flow, params, events, observed, num_samples=64, posterior=posterior, progress=False)
            began = time.perf_counter()
            done = complete(key, flow, params, events, observed, num_samples=64, posterior=posterior, progress=False)
            seconds = time.perf_counter() - began
            starts[posterior.name] = float(done.info.bound.mean())
            rows.append(
                {
                    "case": "digits", "missing": missing, "posterior": posterior.name,
                    "elbo_start": starts[posterior.name], "elbo_end": starts[posterior.name],
                    "iw_bound": float(done.info.iw_bound.mean()), "ess_fraction": float(done.info.ess.mean()) / 64,
                    "residual_max": float(done.info.residual.max()), "seconds": seconds,
                }
            )  # fmt: skip
        for family in (posteriors.householder(num_reflections=20), posteriors.full_rank()):
            rows.append(_fitted_row(family, flow, params, events, observed, missing, steps))
    return rows


def _fitted_row(
    family: Posterior, flow: Flow, params: Any, events: np.ndarray, observed: np.ndarray, missing: float, steps: int
) -> dict[str, Any]:
    observations, known = jax.vmap(mask)(jnp.asarray(observed)), jnp.asarray(events)
    options = {"posterior": family, "steps": steps, "num_samples": 8, "tolerance": 0.0, "progress": False}
    fit_posterior(jax.random.key(6), flow, params, observations, known, **options)
    began = time.perf_counter()
    fitted, trace = fit_posterior(jax.random.key(6), flow, params, observations, known, **options)
    seconds = time.perf_counter() - began

    @jax.jit
    def evaluate(fitted: Fitted, observed: jax.Array, known: jax.Array) -> Any:
        def one(fit: Any, m: jax.Array, y: jax.Array, key: jax.Array) -> Any:
            return draw_samples(key, flow, params, mask(m), y, num_samples=256, posterior=family, fitted=fit).report

        return jax.vmap(one)(fitted, observed, known, jax.random.split(jax.random.key(7), len(known)))

    # a fresh theta gives eta ~ N(0, I): the Gauss-Newton posterior in the same coordinates
    fresh = jax.vmap(lambda key: family.init(key, fitted.start.mean.shape[-1]))(jax.random.split(jax.random.key(8), len(known)))
    start = evaluate(fitted._replace(theta=fresh), jnp.asarray(observed), known)
    end = evaluate(fitted, jnp.asarray(observed), known)
    return {
        "case": "digits", "missing": missing, "posterior": family.name, "elbo_start": float(start.bound.mean()),
        "elbo_end": float(end.bound.mean()), "iw_bound": float(jnp.maximum(start.iw_bound, end.iw_bound).mean()),
        "iw_bound_start": float(start.iw_bound.mean()),
        "ess_fraction": float(end.ess.mean()) / 256, "seconds": seconds,
        "unconverged": float(trace.unconverged.mean()),
    }  # fmt: skip


def main() -> None:
    """Run all cases and write results/posterior_quality.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.posterior_quality", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", choices=("linear", "plane", "digits"), nargs="+", help="some cases; the others keep their rows"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; writes to runs/ in place of results/")
    options = parser.parse_args()
    directory = Path("runs") if options.quick else RESULTS
    cases = {
        "linear": lambda: linear_rows((2, 3) if options.quick else (1, 2, 3, 4, 5, 6)),
        "plane": lambda: plane_rows(2_000 if options.quick else 200_000),
        "digits": lambda: digits_rows(2 if options.quick else 8, 20 if options.quick else 200),
    }
    earlier = read_rows("posterior_quality", directory)
    rows: list[dict[str, Any]] = []
    for case, measure in cases.items():
        chosen = options.only is None or case in options.only
        rows += measure() if chosen else [row for row in earlier if row["case"].split()[0] == case]
    write_results("posterior_quality", rows, seeds=range(8), directory=directory)


if __name__ == "__main__":
    main()
