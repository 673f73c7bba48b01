"""What conditioning does on the flows of the hardness proof, as the formulas grow (docs/hardness.md).

    python -m benchmarks.sat_hardness            # some minutes on two cores
    python -m benchmarks.sat_hardness --quick    # about a minute, nothing written to results/

Random formulas with a planted solution, of 3 literals a clause (fewer where there are fewer variables), at 1, 3 and 4.2 clauses
a variable, and one formula without any solution. The last entry of the event is observed as M, sufficient for the exact
conditional to be near a solution with probability 0.999. Shares are those of resampled draws: within epsilon of a satisfying
assignment ('satisfied'), and of one by their signs alone ('signs_satisfied'), beside the share of all assignments that satisfy
('guess_satisfied'). python-sat counts the solutions.
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

from benchmarks.results_file import RESULTS, write_results
from jaxflows.conditional.diagnostics import resample
from jaxflows.conditional.sample import draw_samples
from jaxflows.hardness import (
    Formula,
    formula,
    near_assignment,
    planted_formula,
    sat_flow,
    satisfies,
    satisfying_assignments,
)
from jaxflows.observation import mask
from jaxflows.solvers.boundary_sweep import boundary_sweep

RATIOS = (1.0, 3.0, 4.2)
WIDTH = 3


def formulas(sizes: tuple[int, ...], seeds: range) -> list[tuple[str, int, Formula]]:
    """Name, seed and formula of every row."""
    rows = [
        (f"planted, {ratio:g} a variable", seed, planted_formula(seed, size, round(ratio * size), width=min(WIDTH, size)))
        for ratio in RATIOS
        for size in sizes
        for seed in seeds
    ]
    every_clause = itertools.product((-1, 1), (-2, 2), (-3, 3))
    return [*rows, ("no solution", 0, formula(3, every_clause))]


def row(name: str, seed: int, problem: Formula, draws: int) -> dict[str, Any]:
    """Condition one formula's flow and count."""
    size = problem.variables
    flow, params = sat_flow(problem)
    observation = mask(jnp.arange(size + 1) == size)
    known = jnp.zeros(size + 1).at[size].set(params["magnitude"])
    run = jax.jit(
        lambda key: draw_samples(
            key, flow, params, observation, known, num_samples=draws, max_hidden=size, solver=boundary_sweep()
        )
    )  # fmt: skip
    compiled = run.lower(jax.random.key(seed)).compile()
    began = time.perf_counter()
    drawn = jax.block_until_ready(compiled(jax.random.key(seed)))
    seconds = time.perf_counter() - began
    picked = np.asarray(resample(jax.random.key(seed + 1), drawn.samples, drawn.log_weights, draws))[:, :size]
    signs = satisfies(problem, picked)
    solutions = len(satisfying_assignments(problem))
    return {
        "case": name, "seed": seed, "variables": size, "clauses": len(problem.clauses), "satisfiable": solutions > 0,
        "solutions": solutions, "magnitude": float(params["magnitude"]), "draws": draws,
        "satisfied_fraction": float(np.mean(signs & near_assignment(problem, picked))),
        "signs_satisfied_fraction": float(np.mean(signs)), "guess_satisfied_fraction": solutions / 2**size,
        "ess_fraction": float(drawn.report.ess) / draws, "pareto_k": float(drawn.report.pareto_k),
        "converged_fraction": float(drawn.solve.converged), "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Run all formulas and write results/sat_hardness.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.sat_hardness", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; writes to runs/ in place of results/")
    options = parser.parse_args()
    sizes, seeds = ((1, 2, 4), range(1)) if options.quick else ((1, 2, 3, 4, 6, 10, 16), range(3))
    draws = 2048 if options.quick else 16384
    rows = [row(*problem, draws) for problem in formulas(sizes, seeds)]
    write_results("sat_hardness", rows, seeds=seeds, directory=Path("runs") if options.quick else RESULTS)


if __name__ == "__main__":
    main()
