"""The bounds of variational methods against the evidence, where it is known (supplement, Appendix B.2).

    python -m benchmarks.pregenerator_bound                      # some minutes on two cores
    python -m benchmarks.pregenerator_bound --max-seconds 200    # begins no row later; the same command goes on
    python -m benchmarks.pregenerator_bound --quick              # fewer steps and draws; nothing written to results/

    joint bound  E log w   <=   marginal bound  E log w_2   <=   E log mean of several w_2   <=   log p(b)

    w = p(y, b) / q(y),     w_2 = p(x_2, b) / q(x_2) = E_q[w | x_2],     x_2 what the measurement leaves free

each with its standard error. The first inequality is that of the appendix; the second is Jensen's, for the weights of the
marginal bound, and would not hold for those of the joint one. w_2 is estimated by W_K of `jaxflows.inverse.marginal_bound`,
which keeps every inequality. Cases: an affine flow (closed form) and a bent one in the plane (quadrature).
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from benchmarks.kept_rows import Row, Task, add_options, measure_and_write
from benchmarks.known_flows import gaussian_of, matrix_flow, measured_of, plane_flow
from benchmarks.known_posteriors import SHAPE, SIGMA, SPREAD, by_quadrature, operators, plane_readings
from jaxflows import inverse
from jaxflows.flows import Flow
from jaxflows.inverse.infer import infer
from jaxflows.inverse.method import Method
from jaxflows.inverse.noise_extension import operator_matrix
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement

NAME = "pregenerator_bound"
# weights averaged before the logarithm is taken
TOGETHER = 16
# K, draws by which a density of x_2 is estimated
INNER = 64


def bounds_of(joint: np.ndarray, marginal: np.ndarray, log_evidence: float) -> Row:
    """The bounds with their standard errors, and whether their order holds within five of them.

    Args:
        joint: (S,) log-weights, independent, S a multiple of `TOGETHER`; minus infinity for a draw that failed.
        marginal: (S,) those of the marginal bound, of the same draws.
        log_evidence: log p(b).
    """
    groups = logsumexp(marginal.reshape(-1, TOGETHER), axis=1) - np.log(TOGETHER)
    # of the difference of two bounds on the same draws: their errors are not independent
    gain, tighter = marginal - joint, groups - marginal.reshape(-1, TOGETHER).mean(axis=1)
    # rounding of a log-density in float32
    slack = 1e-4 * (1.0 + abs(log_evidence))
    return {
        "joint_bound": float(joint.mean()), "joint_std_error": _error(joint),
        "marginal_bound": float(marginal.mean()), "marginal_std_error": _error(marginal),
        "weighted_bound": float(groups.mean()), "weighted_std_error": _error(groups), "log_evidence": log_evidence,
        "gain_of_the_marginal": float(gain.mean()), "gain_std_error": _error(gain),
        "ordered": bool(gain.mean() >= -5 * _error(gain) - slack)
        and bool(tighter.mean() >= -5 * _error(tighter) - slack)
        and bool(groups.mean() <= log_evidence + 5 * _error(groups) + slack),
    }  # fmt: skip


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def measured(
    case: str, flow: Flow, params: Any, reading: NoisyMeasurement, log_evidence: float, method: Method, draws: int,
) -> Row:  # fmt: skip
    """The row of one method on one problem."""
    found = infer(jax.random.key(0), flow, params, reading, method=method, num_samples=draws)
    assert found.marginal is not None
    scores = bounds_of(np.asarray(found.log_weights, float), np.asarray(found.marginal.log_weights, float), log_evidence)
    return {"case": case, "method": found.method, **scores, "seconds": found.seconds}


def linear_tasks(methods: list[Method], draws: int) -> dict[str, Task]:
    """An affine flow, its evidence in closed form."""
    flow, params = matrix_flow(SHAPE, seed=0, spread=SPREAD)
    moments = gaussian_of(flow, params)
    tasks: dict[str, Task] = {}
    for name in ("entries", "gaussian", "average pooling"):
        operator = operators()[name]
        matrix = operator_matrix(operator).astype(float)
        values = matrix @ np.random.default_rng(1).multivariate_normal(*moments)
        reading = noisy_measurement(operator, values, noise=inverse.noise.gaussian(SIGMA))
        known = measured_of(*moments, matrix, SIGMA, np.asarray(reading.values, float))
        for method in methods:
            task = functools.partial(measured, f"linear, {name}", flow, params, reading, known[2], method, draws)
            tasks[f"linear, {name}, {method.name}"] = task
    return tasks


def plane_tasks(methods: list[Method], draws: int, quick: bool) -> dict[str, Task]:
    """A bent flow in the plane, its evidence by quadrature. It is trained when the first row is measured."""
    reading = plane_readings()["linear"]

    @functools.cache
    def trained() -> tuple[Flow, Any, float]:
        flow, params = plane_flow(0, steps=200 if quick else 1500)
        return flow, params, by_quadrature(flow, params, reading, 101 if quick else 401).log_evidence

    def task(method: Method) -> Row:
        flow, params, log_evidence = trained()
        return measured("plane", flow, params, reading, log_evidence, method, draws)

    return {f"plane, {method.name}": functools.partial(task, method) for method in methods}


def main() -> None:
    """Run all cases and write results/pregenerator_bound.json."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{NAME}", description=__doc__.split("\n")[0])
    add_options(parser, NAME)
    options = parser.parse_args()
    steps, draws = (100, 10 * TOGETHER) if options.quick else (1000, 64 * TOGETHER)
    fit = {"steps": steps, "num_draws": 32, "learning_rate": 5e-3, "marginal_draws": 8 if options.quick else INNER}
    methods = [inverse.pregenerator(**fit)]
    # a log-determinant of a residual flow a draw and step: the ambient posterior is compared where it is cheap
    tasks = linear_tasks([*methods, inverse.ambient(**fit)], draws) | plane_tasks(methods, draws, options.quick)
    measure_and_write(NAME, tasks, options, seeds=[0, 1])


if __name__ == "__main__":
    main()
