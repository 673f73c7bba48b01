"""What the rows of `benchmarks.constraint_solve` show against what they must show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.results_file import Row, table

ALGORITHM_2 = ("algorithm_2_published", "algorithm_2_constant", "algorithm_2_anderson")


def summarise(rows: Sequence[Row]) -> str:
    """Ratios of Algorithm 2's best row to the default solver, and each acceptance as true or false."""
    lines = [table(ratios(rows)), ""]
    lines += [f"{text}: {'n/a' if value is None else value}" for text, value in acceptances(rows).items()]
    return "\n".join(lines)


def ratios(rows: Sequence[Row]) -> list[Row]:
    """For each flow and observation: the fewest evaluations and the least seconds of the three, over the default's.

    A row of Algorithm 2 that left problems unsolved spent its evaluations too, but those that solved most are compared.
    """
    found = []
    for key in dict.fromkeys((row["flow"], row["observation"]) for row in rows):
        here = {row["solver"]: row for row in rows if (row["flow"], row["observation"]) == key}
        rivals = [here[name] for name in ALGORITHM_2 if name in here]
        if not rivals:
            continue
        most = max(row["converged_fraction"] for row in rivals)
        rivals = [row for row in rivals if row["converged_fraction"] >= most - 0.01]
        best = min(rivals, key=lambda row: row["block_evaluations_median"])
        default = here["default"]
        found.append(
            {
                "flow": key[0],
                "observation": key[1],
                "best of three": best["solver"],
                "its evaluations": best["block_evaluations_median"],
                "default": default["block_evaluations_median"],
                "ratio": best["block_evaluations_median"] / default["block_evaluations_median"],
                "seconds ratio": min(row["seconds"] for row in rivals) / default["seconds"],
            }
        )
    return found


def acceptances(rows: Sequence[Row]) -> dict[str, bool | None]:
    """Each figure asked of the benchmark, with its value in words; None where no row bears on it."""
    # flows that may squeeze without limit are there to show what that does
    default = [row for row in rows if row["solver"] == "default" and "_steep_" not in row["flow"]]
    single = [row for row in default if not row["flow"].endswith("_float64")]
    shallow = [row for row in single if "depth" not in row["flow"]]
    compared = ratios(rows)

    def converged(chosen: list[Row]) -> float | None:
        return min((row["converged_fraction"] for row in chosen), default=None)

    def judge(value: float | None, verdict: bool) -> bool | None:
        return None if value is None else verdict

    masks = converged([row for row in single if row["observation"].startswith("mask")])
    measurements = converged([row for row in single if not row["observation"].startswith("mask")])
    double = converged([row for row in default if row["flow"].endswith("_float64")])
    least = min((row["ratio"] for row in compared), default=None)
    middle = float(np.median([row["ratio"] for row in compared])) if compared else None
    seconds = min((row["seconds ratio"] for row in compared), default=None)
    dearest = max((row["block_evaluations_median"] for row in shallow), default=None)
    growth = depth_exponent(single)
    return {
        f"masks converged to 1e-4, least fraction {masks} >= 0.999": judge(masks, (masks or 0) >= 0.999),
        f"linear measurements converged, {measurements} >= 0.99": judge(measurements, (measurements or 0) >= 0.99),
        f"float64 converged to 1e-10, {double} >= 0.99": judge(double, (double or 0) >= 0.99),
        f"evaluations, least ratio {least} >= 5": judge(least, (least or 0) >= 5),
        f"evaluations, median ratio {middle} >= 10": judge(middle, (middle or 0) >= 10),
        f"wall time, least ratio {seconds} > 1": judge(seconds, (seconds or 0) > 1),
        f"evaluations at 8 blocks, largest median {dearest} < 250": judge(dearest, (dearest or math.inf) < 250),
        f"evaluations grow with depth to the power {growth} <= 1": judge(growth, (growth or 0) <= 1.0),
    }


def depth_exponent(rows: Sequence[Row]) -> float | None:
    """The largest p over observations in evaluations ~ blocks^p, between the shallowest and the deepest flow."""
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        if "_depth_" in row["flow"]:
            blocks = int(row["flow"].rpartition("_")[2])
            curves.setdefault(row["observation"], {})[blocks] = row["block_evaluations_median"]
    powers = [
        math.log(curve[max(curve)] / curve[min(curve)]) / math.log(max(curve) / min(curve))
        for curve in curves.values()
        if len(curve) > 1
    ]
    return max(powers, default=None)
