"""What it takes to reach PL-MCMC's completions: the same trained flow, rows and masks.

    python -m benchmarks.completion_speed            # the shipped digits flow, 8 held-out rows, half and nine tenths missing
    python -m benchmarks.completion_speed --quick    # one row, few steps; writes to runs/ in place of results/

PL-MCMC (Cannella et al. 2021, with the log-determinants in its ratio) runs four chains a row until its scores have stopped
falling, once as published and once with the widths of least CRPS after a pilot. Its samples at any time are 64 of the second
half of its chains. Ours is `complete` in antithetic pairs without weights, from 1, 2, 3, 4 or 8 anchors and of 8, 16 or 64
draws, and with them, 16 or 64 draws from one anchor resampled: the row 'ours' is the one of fewest evaluations that is no worse
than the better PL-MCMC by more than one standard error in either score, by the differences of the same rows of the data. All
follow.

Row keys: system, missing, rmse, crps (both of the mean over rows' missing entries), evaluations (block evaluations of decodes,
encodes and solves of all rows, and of the columns by which anchors are found; exact log-determinants of PL-MCMC's ratio and of
weights are not counted but timed), seconds (of all rows, compilation left out), samples, anchors; more_rmse, more_crps and
their standard errors: a row of the data's score less that of the better PL-MCMC; of PL-MCMC also steps, acceptance, r_hat, ess
and plateau_rmse, plateau_crps, of which the row is the first time within one hundredth, and more_evaluations, more_seconds: as
many times ours.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results_file import RESULTS, write_results
from benchmarks.train_digits_flow import MODEL, load_digits_rows, noisy_values
from jaxflows import persistence
from jaxflows.conditional.complete import complete
from jaxflows.flows import Flow
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement
from jaxflows.inverse.plmcmc_method import Advanced, ChainState, PlmcmcOptions, advance_chains, begin_chains
from jaxflows.measurements import entries
from jaxflows.metrics import bulk_ess, crps, rmse_mean, split_r_hat

MISSING = (0.5, 0.9)
CHAINS, SAMPLES = 4, 64
# steps between two looks at the scores, and between two states that are kept
CHUNK, THIN = 250, 25
# a score has stopped falling when the second half of the run improved on the first by less than this fraction of it
IMPROVEMENT = 0.01
PUBLISHED = PlmcmcOptions(sigma_a=1e-3, sigma_p=0.05, sigma_r=1.0, independent=0.5)
# the law of the hidden entries does not depend on sigma_a
TRIED = tuple(
    PlmcmcOptions(sigma_a, sigma_p, 1.0, 0.1)
    for sigma_a, sigma_p in ((0.05, 0.05), (0.2, 0.1), (0.3, 0.3), (0.5, 0.3), (1.0, 0.3))
)
# ways of ours: anchors, draws, and whether they are weighed
WAYS = (
    *((anchors, samples, False) for anchors in (1, 2, 3, 4, 8) for samples in (8, 16, SAMPLES)),
    *((1, samples, True) for samples in (16, SAMPLES)),
)


class Problem(NamedTuple):
    """Rows to complete by one flow.

    Attributes:
        flow, params: the flow.
        rows: (rows, d).
        observed: (rows, d) boolean, as many in every row.
        measurements: one a row, stacked.
    """

    flow: Flow
    params: Any
    rows: np.ndarray
    observed: np.ndarray
    measurements: NoisyMeasurement


class Scores(NamedTuple):
    """RMSE of the mean and CRPS over missing entries: pooled over rows, and of every row apart, (rows,)."""

    rmse: float
    crps: float
    row_rmse: np.ndarray
    row_crps: np.ndarray


class Look(NamedTuple):
    """PL-MCMC at one time of its run."""

    steps: int
    rmse: float
    crps: float
    evaluations: int
    seconds: float
    scores: Scores


def digits_problem(missing: float, count: int) -> Problem:
    """Held-out digits with the noise they were trained with, and masks of exactly that share."""
    flow, params, _ = persistence.load(MODEL)
    rows = np.asarray(noisy_values(jax.random.key(1), load_digits_rows().test[:count]))
    rng = np.random.default_rng(2)
    rank = np.stack([rng.permutation(rows.shape[1]) for _ in rows])
    observed = rank >= round(missing * rows.shape[1])
    measured = [noisy_measurement(entries(seen), row[seen]) for row, seen in zip(rows, observed, strict=True)]
    return Problem(flow, params, rows, observed, jax.tree.map(lambda *leaves: jnp.stack(leaves), *measured))


def scores(problem: Problem, samples: np.ndarray, *, antithetic: bool = False) -> Scores:
    """Of (rows, S, d)."""
    known = tuple(jnp.asarray(part) for part in (samples, problem.rows, problem.observed))
    both = rmse_mean, functools.partial(crps, antithetic=antithetic)
    each = [[float(score(*(part[i : i + 1] for part in known))) for i in range(len(samples))] for score in both]
    return Scores(*(float(score(*known)) for score in both), *map(np.asarray, each))


def second_half(events: np.ndarray, most: int = SAMPLES) -> np.ndarray:
    """At most so many of the second half of the chains, evenly spaced: (rows, chains, kept, *event) to (rows, S, *event)."""
    half = events[:, :, events.shape[2] // 2 :]
    each = min(most // CHAINS, half.shape[2])
    picks = np.linspace(0, half.shape[2] - 1, each).round().astype(int)
    return half[:, :, picks].reshape(len(events), -1, *events.shape[3:])


@functools.partial(jax.jit, static_argnums=0)
def begun(flow: Flow, options: PlmcmcOptions, keys: jax.Array, params: Any, measurements: NoisyMeasurement) -> Any:
    """The chains of every row, and the evaluations of each."""
    return jax.vmap(lambda key, measured: begin_chains(flow, CHAINS, options, key, params, measured))(keys, measurements)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("steps", "thin"))
def advanced(
    flow: Flow, options: PlmcmcOptions, keys: jax.Array, params: Any, measurements: NoisyMeasurement, states: ChainState,
    *, steps: int = CHUNK, thin: int = THIN,
) -> Advanced:  # fmt: skip
    """So many steps of the chains of every row."""

    def one(key: jax.Array, measured: NoisyMeasurement, state: ChainState) -> Advanced:
        return advance_chains(flow, steps, thin, options, key, params, measured, state)

    return jax.vmap(one)(keys, measurements, states)


def run_plmcmc(problem: Problem, options: PlmcmcOptions, most_steps: int) -> tuple[list[Look], dict[str, float]]:
    """Looks at the scores until they have stopped falling or the steps run out, and the diagnostics of the second half."""
    flow, params, rows, observed, measurements = problem
    keys = jax.random.split(jax.random.key(3), len(rows))
    states, spent = begun(flow, options, keys, params, measurements)
    evaluations, seconds, looks = int(jnp.sum(spent)), 0.0, []
    events, acceptance = [], []
    while not looks or (looks[-1].steps < most_steps and not has_settled(looks)):
        keys = jax.vmap(lambda k: jax.random.split(k)[1])(keys)
        began = time.perf_counter()
        went = jax.block_until_ready(advanced(flow, options, keys, params, measurements, states))
        seconds += time.perf_counter() - began
        states = went.states
        evaluations += int(jnp.sum(went.evaluations))
        acceptance.append(float(went.acceptance.mean()))
        events.append(np.asarray(went.events))
        found = scores(problem, second_half(np.concatenate(events, axis=2)))
        looks.append(Look(CHUNK * len(events), found.rmse, found.crps, evaluations, seconds, found))
    half = np.concatenate(events[len(events) // 2 :], axis=2)
    hidden = [jnp.asarray(half[i][..., ~observed[i]]) for i in range(len(rows))]
    return looks, {
        "acceptance": float(np.mean(acceptance)),
        "r_hat": float(max(jnp.max(split_r_hat(row)) for row in hidden)),
        "ess": float(min(jnp.min(bulk_ess(row)) for row in hidden)),
    }


def has_settled(looks: list[Look]) -> bool:
    """Whether both scores' best of the second half of the run is no more than a little better than the first half's."""
    half = len(looks) // 2
    if half < 4:
        return False
    for score in ("rmse", "crps"):
        before, after = (min(getattr(look, score) for look in part) for part in (looks[:half], looks[half:]))
        if after < (1 - IMPROVEMENT) * before:
            return False
    return True


def best_of_pilot(problem: Problem, steps: int) -> PlmcmcOptions:
    """Of the options tried, those of least CRPS after a pilot."""
    return min(TRIED, key=lambda options: run_plmcmc(problem, options, steps)[0][-1].crps)


def plmcmc_row(system: str, problem: Problem, options: PlmcmcOptions, most_steps: int) -> tuple[dict[str, Any], Scores]:
    """A run's plateau, and the first time it was within `IMPROVEMENT` of it in both scores, with the scores of then."""
    looks, diagnostics = run_plmcmc(problem, options, most_steps)
    plateau = {score: min(getattr(look, score) for look in looks) for score in ("rmse", "crps")}
    near = [
        look for look in looks if all(getattr(look, score) <= (1 + IMPROVEMENT) * least for score, least in plateau.items())
    ]
    # the two scores may be least at different times, and then the end is what counts
    look = near[0] if near else looks[-1]
    return {
        "system": system, "rmse": look.rmse, "crps": look.crps, "evaluations": look.evaluations, "seconds": look.seconds,
        "samples": SAMPLES, "steps": look.steps, "steps_in_all": looks[-1].steps, "settled": has_settled(looks),
        **{f"plateau_{score}": value for score, value in plateau.items()}, **diagnostics, **options._asdict(),
    }, look.scores  # fmt: skip


def our_row(problem: Problem, anchors: int, samples: int, weighted: bool, bar: Scores) -> dict[str, Any]:
    """`complete`, timed without compilation, and how far its scores are from the bar."""
    call = functools.partial(
        complete, jax.random.key(5), problem.flow, problem.params, problem.rows, problem.observed, num_samples=samples,
        anchors=anchors, weighted=weighted, antithetic=True, progress=False,
    )  # fmt: skip
    call()
    began = time.perf_counter()
    done = call()
    seconds = time.perf_counter() - began
    events = done.resampled(jax.random.key(7), samples) if weighted else done.solved()[0]
    found = scores(problem, events, antithetic=not weighted)
    row: dict[str, Any] = {
        "system": f"ours, {anchors} anchor{'s' * (anchors > 1)}, {samples} {'weighted ' * weighted}draws",
        "rmse": found.rmse, "crps": found.crps, "evaluations": int(done.info.evaluations.sum()), "seconds": seconds,
        "samples": samples, "anchors": anchors,
    }  # fmt: skip
    for score in ("rmse", "crps"):
        more = getattr(found, f"row_{score}") - getattr(bar, f"row_{score}")
        row |= {f"more_{score}": float(more.mean()), f"more_{score}_std_error": std_error(more)}
    return row


def std_error(values: np.ndarray) -> float:
    """Of the mean; 0 of a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def has_reached(row: dict[str, Any]) -> bool:
    """Whether a row of ours is no worse than the bar by more than one standard error, in both scores."""
    return all(row[f"more_{score}"] <= row[f"more_{score}_std_error"] for score in ("rmse", "crps"))


def compared(missing: float, count: int, most_steps: int, pilot_steps: int) -> list[dict[str, Any]]:
    """The rows of one share missing."""
    problem = digits_problem(missing, count)
    # compiles the program that all runs share, whatever their options, and goes unused
    run_plmcmc(problem, PUBLISHED, CHUNK)
    published, tuned = (
        plmcmc_row(system, problem, options, most_steps)
        for system, options in (("plmcmc_published", PUBLISHED), ("plmcmc_tuned", best_of_pilot(problem, pilot_steps)))
    )
    bar = min((published[1], tuned[1]), key=lambda found: found.crps)
    ours = [our_row(problem, *way, bar) for way in WAYS]
    return [{"missing": missing, "rows": count, **row} for row in summed_up([published[0], tuned[0]], ours)]


def summed_up(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Theirs with what they took as multiples of ours, the way of ours that counts, and all ways by their evaluations."""
    ours = sorted(ours, key=lambda row: row["evaluations"])
    first = next((row for row in ours if has_reached(row)), ours[-1])
    multiples = [{f"more_{cost}": row[cost] / first[cost] for cost in ("evaluations", "seconds")} for row in theirs]
    theirs = [row | more for row, more in zip(theirs, multiples, strict=True)]
    return [*theirs, first | {"system": "ours", "way": first["system"], "reached": has_reached(first)}, *ours]


def main() -> None:
    """Compare at every share missing and write results/completion_speed.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.completion_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10_000, help="of a PL-MCMC chain, at most")
    parser.add_argument("--quick", action="store_true", help="1 row, 250 steps; writes to runs/ in place of results/")
    options = parser.parse_args()
    count, steps, pilot = (1, CHUNK, CHUNK) if options.quick else (options.rows, options.steps, 500)
    rows: list[dict[str, Any]] = []
    for missing in MISSING:
        rows += compared(missing, count, steps, pilot)
        write_results("completion_speed", rows, seeds=[1, 2, 3, 5], directory=Path("runs") if options.quick else RESULTS)


if __name__ == "__main__":
    main()
