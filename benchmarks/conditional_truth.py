"""Draws of every family against conditionals that are known: a classifier that looks for a difference, and calibration.

    python -m benchmarks.conditional_truth                # all families: about a quarter of an hour of one core
    python -m benchmarks.conditional_truth --only nice    # one family; the others keep their rows
    python -m benchmarks.conditional_truth --quick        # two cases, few rows; written to runs/

Cases, of flows whose conditional is known:

affine   exactly affine members of the families that have some (`known_flows.affine_flow`), d = 4, two entries hidden, against
         the Schur complement
plane    two-dimensional flows trained on two half moons for a minute at most, one entry hidden, against quadrature of their
         own density. Glow has no flow of two entries
mixture  the flow that transports a mixture of three Gaussians exactly, against quadrature of the mixture's density

The rows are events of the flow itself, each with another mask; all of a case are completed by one call with default options, or
where there may be several modes with ``anchors=8``.

two_sample   is a resampled draw told from an exact one? A vote of the nearest neighbours among draws of other rows, of both
             kinds, cross-validated over rows, on the hidden entries (standardised by their exact conditional moments), the
             first observed one and the mask. Few of a row's many draws are taken, and each once only, so that no repetition
             gives them away: ``draws`` counts them. ``accuracy_std_error`` is the deviation of the accuracy when
             labels are exchanged at random within pairs, which holds the dependence of the votes on each other.
             ``accuracy_unweighted`` is that of draws taken without regard to their weights: how sharp the test is.
calibration  is the hidden entry's rank among the row's weighted draws uniform over rows? With weights of mean one the rank of
             the true value y* among S draws is u = (sum of w_i over y_i < y*, and V) / (S + 1), V uniform: y* counts as one
             draw more, of mean weight, and a share V of it lies below. Uniform exactly where weights are equal, and to order
             1 / ess where they are not. ``sbc_p`` is of a chi-square over ten bins.

``mass_reached`` is the mean weight over the exact density of the observed entries, mean over rows: it estimates without bias
the share of the exact conditional's mass that draws can reach. With one anchor it is below one where several completions have
the same free latent, of which the solver finds one (docs/design.md, section 6); the effective sample size does not see that.
``mass_of_one_anchor`` is that share with default options.

``passed``: the accuracy is within three standard errors of one half; the p-value is above 0.01 over the number of calibrations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks.known_flows import (
    affine_flow,
    bent_mixture,
    conditional_of,
    gaussian_of,
    mixture_flow,
    trained_on_moons,
)
from benchmarks.results_file import RESULTS, Row, read_rows, write_results
from jaxflows import flows
from jaxflows.conditional.complete import complete
from jaxflows.conditional.completion import Completion
from jaxflows.flows import Flow

SEED = 0
# draws a row, and how many of them the classifier sees
DRAWS, TAKEN = 128, 8
# of cases that may have several modes
ANCHORS = 8
NEIGHBOURS, FOLDS, EXCHANGES = 101, 5, 200
BINS = 10
ALPHA, STD_ERRORS = 0.01, 3.0
# of one hidden entry in the plane
GRID = np.linspace(-7.0, 8.0, 1001)

AFFINE: dict[str, Callable[[], Flow]] = {
    "residual": lambda: flows.residual(event_shape=(4,), blocks=3, hidden=4),
    "residual_densenet": lambda: flows.residual_densenet(event_shape=(4,), blocks=3, hidden=4),
    "implicit": lambda: flows.implicit(event_shape=(4,), blocks=2, hidden=4),
    "continuous": lambda: flows.continuous(event_shape=(4,), hidden=4, legs=4, activation="clipswish"),
    "realnvp": lambda: flows.realnvp(event_shape=(4,), layers=4, hidden=4, blocks=1),
    "nice": lambda: flows.nice(event_shape=(4,), layers=4, hidden=4, blocks=1),
    "glow": lambda: flows.glow(event_shape=(2, 2, 1), scales=1, steps=3, hidden=4, blocks=1),
}
PLANE: dict[str, Callable[[], Flow]] = {
    "residual": lambda: flows.residual(event_shape=(2,), blocks=8, hidden=32, coeff=0.9),
    "residual_densenet": lambda: flows.residual_densenet(event_shape=(2,), blocks=6, hidden=16, coeff=0.9),
    "implicit": lambda: flows.implicit(event_shape=(2,), blocks=2, hidden=32, coeff=0.9),
    "continuous": lambda: flows.continuous(event_shape=(2,), hidden=32, legs=6),
    "planar": lambda: flows.planar(event_shape=(2,)),
    "radial": lambda: flows.radial(event_shape=(2,)),
    "sylvester": lambda: flows.sylvester(event_shape=(2,)),
    "realnvp": lambda: flows.realnvp(event_shape=(2,), layers=6, hidden=32, blocks=1),
    "nice": lambda: flows.nice(event_shape=(2,), layers=6, hidden=32, blocks=1),
    "neural_spline": lambda: flows.neural_spline(event_shape=(2,), layers=4, hidden=32, blocks=1),
}


class Exact(NamedTuple):
    """The exact conditional of the K hidden entries of each row.

    Attributes:
        draws: (rows, TAKEN, K).
        mean: (rows, K).
        deviation: (rows, K).
        log_evidence: (rows,), log p of the observed entries.
    """

    draws: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    log_evidence: np.ndarray


class Case(NamedTuple):
    """A flow, events of it (rows, d), and its exact conditionals: ``(rng, events, observed (rows, d)) -> Exact``."""

    family: str
    name: str
    flow: Flow
    params: Any
    events: np.ndarray
    exact: Callable[[np.random.Generator, np.ndarray, np.ndarray], Exact]


def cases(count: int, steps: int, chosen: Sequence[str]) -> Iterator[Case]:
    """Every case of the families chosen, with ``count`` events; plane flows are trained for ``steps``."""
    for number, (family, make) in enumerate(AFFINE.items()):
        if family in chosen:
            flow = make()
            # a seed each: families with the same matrices would be the same flow
            params = affine_flow(flow, SEED + number)
            yield Case(family, "affine", flow, params, sampled(flow, params, count), schur(*gaussian_of(flow, params)))
    for family, make in PLANE.items():
        if family in chosen:
            flow = make()
            params = trained_on_moons(flow, SEED, steps=steps)
            yield Case(family, "plane", flow, params, sampled(flow, params, count), quadrature(density_of(flow, params)))
    if "from_functions" in chosen:
        mixture = bent_mixture()
        events = mixture.sample(np.random.default_rng(SEED), count).astype(np.float32)
        yield Case("from_functions", "mixture", *mixture_flow(mixture), events, quadrature(mixture.log_density))


def sampled(flow: Flow, params: Any, count: int) -> np.ndarray:
    """Events of the flow, flattened."""
    events = jax.jit(lambda k: flow.sample(k, params, count))(jax.random.key(SEED))
    return np.asarray(events).reshape(count, -1)


def density_of(flow: Flow, params: Any) -> Callable[[np.ndarray], np.ndarray]:
    """log p of points (rows, n, *event), a row at a time."""
    program = jax.jit(lambda points: jax.lax.map(jax.vmap(lambda y: flow.log_prob(params, y)), points))
    return lambda points: np.asarray(program(jnp.asarray(points, jnp.float32)), np.float64)


def schur(mean: np.ndarray, covariance: np.ndarray) -> Callable[..., Exact]:
    """Conditionals of a Gaussian."""

    def exact(rng: np.random.Generator, events: np.ndarray, observed: np.ndarray) -> Exact:
        found = [conditional_of(mean, covariance, seen, event) for event, seen in zip(events, observed, strict=True)]
        centres, spreads = (np.stack(parts) for parts in zip(*found, strict=True))
        normals = rng.standard_normal((len(events), TAKEN, centres.shape[1]))
        draws = centres[:, None] + np.einsum("nij,nsj->nsi", np.linalg.cholesky(spreads), normals)
        seen = [scipy.stats.multivariate_normal(mean[m], covariance[np.ix_(m, m)]) for m in observed]
        evidence = [law.logpdf(event[m]) for law, event, m in zip(seen, events, observed, strict=True)]
        return Exact(draws, centres, np.sqrt(np.diagonal(spreads, axis1=1, axis2=2)), np.stack(evidence))

    return exact


def quadrature(log_density: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Exact]:
    """Conditionals of one entry given the other, from the density on `GRID`; draws by inverting the distribution function."""

    def exact(rng: np.random.Generator, events: np.ndarray, observed: np.ndarray) -> Exact:
        points = np.where(observed[:, None], events[:, None], GRID[:, None])
        log_p = log_density(points)
        peak = log_p.max(axis=1, keepdims=True)
        density = np.exp(log_p - peak)
        if density[:, [0, -1]].max() > 1e-4:
            raise RuntimeError(f"expected densities that end inside the grid; got {density[:, [0, -1]].max():.1e} of the peak")
        log_evidence = peak[:, 0] + np.log(density.sum(axis=1) * (GRID[1] - GRID[0]))
        density /= density.sum(axis=1, keepdims=True)
        mean = density @ GRID
        deviation = np.sqrt(density @ GRID**2 - mean**2)
        # trapezoids: the distribution function at the grid's points
        cells = 0.5 * (density[:, 1:] + density[:, :-1])
        reached = np.concatenate([np.zeros((len(cells), 1)), np.cumsum(cells, axis=1)], axis=1)
        levels = rng.random((len(events), TAKEN)) * reached[:, -1:]
        draws = np.stack([np.interp(level, row, GRID) for level, row in zip(levels, reached, strict=True)])
        return Exact(draws[..., None], mean[:, None], deviation[:, None], log_evidence)

    return exact


def masks(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """(count, size), in each row another random half observed."""
    order = rng.permuted(np.tile(np.arange(size), (count, 1)), axis=1)
    return order < size // 2


def accuracy(ours: np.ndarray, exact: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Cross-validated accuracy of a vote of nearest neighbours between two samples, and its deviation if they are alike.

    Args:
        ours, exact: (n, features), pairs exchangeable where the samples are alike.
        groups: (n,), numbers; pairs of one group are in one fold.
        rng: of the folds and the exchanges.
    """
    from sklearn.neighbors import NearestNeighbors

    points = np.concatenate([ours, exact])
    points = (points - points.mean(axis=0)) / np.maximum(points.std(axis=0), 1e-12)
    folds = np.tile(rng.integers(FOLDS, size=groups.max() + 1)[groups], 2)
    voters = np.empty((len(points), NEIGHBOURS), np.int64)
    for fold in range(FOLDS):
        others, here = np.flatnonzero(folds != fold), folds == fold
        voters[here] = others[NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points[others]).kneighbors(points[here])[1]]

    def right(labels: np.ndarray) -> float:
        return float(np.mean(np.sign(labels[voters].sum(axis=1)) == labels))

    labels = np.repeat(np.array([1, -1], np.int16), len(ours))
    exchanged = [right(np.tile(rng.choice(np.array([1, -1], np.int16), len(ours)), 2) * labels) for _ in range(EXCHANGES)]
    return right(labels), float(np.std(exchanged))


def two_sample(done: Completion, case: Case, exact: Exact, observed: np.ndarray, rng: np.random.Generator) -> Row:
    """Resampled draws against exact ones, and draws taken as they come against exact ones."""
    count = len(observed)
    hidden = np.nonzero(~observed)[1].reshape(count, 1, -1)
    first_seen = np.take_along_axis(case.events, observed.argmax(axis=1)[:, None], axis=1)
    pattern = np.unique(observed, axis=0, return_inverse=True)[1].reshape(count, 1)
    # masks apart: further from each other than anything else
    row = np.concatenate([first_seen / case.events.std(), 100.0 * pattern], axis=1)

    def features(entries: np.ndarray, keep: np.ndarray) -> np.ndarray:
        standard = (entries - exact.mean[:, None]) / exact.deviation[:, None]
        return np.concatenate([standard, np.broadcast_to(row[:, None], (*keep.shape, 2))], axis=2)[keep]

    def told(samples: np.ndarray) -> tuple[float, float, int]:
        entries = np.take_along_axis(samples.reshape(count, TAKEN, -1), hidden, axis=2)
        keep = once(entries)
        groups = np.broadcast_to(np.arange(count)[:, None], keep.shape)[keep]
        return *accuracy(features(entries, keep), features(exact.draws, keep), groups, rng), int(keep.sum())

    share, error, draws = told(done.resampled(jax.random.key(SEED + 2), TAKEN))
    unweighted = told(done.samples[:, :TAKEN])[0]
    return {
        "test": "two_sample", "accuracy": share, "accuracy_std_error": error, "accuracy_unweighted": unweighted, "draws": draws,
        "passed": abs(share - 0.5) <= STD_ERRORS * error,
    }  # fmt: skip


def once(entries: np.ndarray) -> np.ndarray:
    """(rows, n), False where a draw (rows, n, K) is the same as one before it in its row. Resampling keeps the order."""
    repeated = np.all(entries[:, 1:] == entries[:, :-1], axis=2)
    return np.concatenate([np.ones((len(entries), 1), bool), ~repeated], axis=1)


def ranks(samples: np.ndarray, log_weights: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """u of each row, in [0, 1]: the weighted, randomised rank of ``truth`` (rows,) among ``samples`` (rows, S)."""
    size = samples.shape[1]
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights *= size / weights.sum(axis=1, keepdims=True)
    below = np.sum(np.where(samples < truth[:, None], weights, 0.0), axis=1)
    return (below + rng.random(len(truth))) / (size + 1)


def calibration(done: Completion, case: Case, observed: np.ndarray, rng: np.random.Generator) -> Row:
    """Ranks of one hidden entry a row, the first in every other row and the last in the others."""
    count = len(observed)
    hidden = np.nonzero(~observed)[1].reshape(count, -1)
    entry = np.where(np.arange(count) % 2 == 0, hidden[:, 0], hidden[:, -1])
    samples = np.take_along_axis(done.samples.reshape(count, DRAWS, -1), entry[:, None, None], axis=2)[..., 0]
    truth = np.take_along_axis(case.events, entry[:, None], axis=1)[:, 0]
    u = ranks(samples, np.asarray(done.log_weights, np.float64), truth, rng)
    counts = np.histogram(u, BINS, (0.0, 1.0))[0]
    return {"test": "calibration", "sbc_p": float(scipy.stats.chisquare(counts).pvalue), "draws": count}


def rows_of(case: Case) -> list[Row]:
    """Complete the case's events and put both tests to the draws."""
    rng = np.random.default_rng(SEED + 1)
    observed = masks(rng, *case.events.shape)
    shape = (-1, *case.flow.event_shape)
    began = time.perf_counter()
    done = complete(
        jax.random.key(SEED + 1), case.flow, case.params, case.events.reshape(shape), observed.reshape(shape),
        num_samples=DRAWS, anchors=1 if case.name == "affine" else ANCHORS, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    exact = case.exact(rng, case.events, observed)
    alone = done
    if case.name != "affine":
        alone = complete(
            jax.random.key(SEED + 1), case.flow, case.params, case.events.reshape(shape), observed.reshape(shape),
            num_samples=DRAWS, progress=False,
        )  # fmt: skip
    shared = {
        "ess_fraction": float(done.info.ess.mean()) / DRAWS, "converged_fraction": float(done.info.converged.mean()),
        "mass_reached": float(np.mean(np.exp(done.info.iw_bound - exact.log_evidence))),
        "mass_of_one_anchor": float(np.mean(np.exp(alone.info.iw_bound - exact.log_evidence))),
        "rows": len(observed), "seconds": seconds,
    }  # fmt: skip
    tests = [two_sample(done, case, exact, observed, rng), calibration(done, case, observed, rng)]
    return [{"family": case.family, "case": case.name} | row | shared for row in tests]


def judged(rows: Sequence[Row]) -> list[Row]:
    """The rows, calibrations judged with Bonferroni's correction for their number."""
    threshold = ALPHA / max(1, sum("sbc_p" in row for row in rows))
    return [row | {"passed": row["sbc_p"] > threshold} if "sbc_p" in row else dict(row) for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Put every case to both tests and write results/conditional_truth.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.conditional_truth", description=__doc__.split("\n")[0])
    families = sorted({*AFFINE, *PLANE, "from_functions"})
    parser.add_argument("--only", choices=families, nargs="+", help="some families; the others keep their rows")
    parser.add_argument("--quick", action="store_true", help="two cases, few rows; writes to runs/ in place of results/")
    options = parser.parse_args(arguments)
    count, steps, chosen, directory = 400, 600, options.only or families, RESULTS
    if options.quick:
        count, steps, chosen, directory = 100, 100, ["nice"], Path("runs")
    rows = [row for row in read_rows("conditional_truth", directory) if row["family"] not in chosen]
    for case in cases(count, steps, chosen):
        rows += rows_of(case)
        # a case at a time, so that an interrupt loses one at most
        write_results("conditional_truth", judged(rows), seeds=range(SEED, SEED + len(AFFINE)), directory=directory)
        # the programs of all cases together are more than the compiler can hold
        jax.clear_caches()


if __name__ == "__main__":
    main()
