"""Every sampling method of `jaxflows.infer` where the posterior is known: in closed form, and by quadrature in the plane.

    python -m benchmarks.known_posteriors                      # some minutes on two cores
    python -m benchmarks.known_posteriors --max-seconds 200    # begins no row later; the same command goes on
    python -m benchmarks.known_posteriors --quick              # two measurements, few samples; nothing written to results/

Cases: (a) 'linear': an affine flow of 2 x 2 x 3 events under every named linear measurement, without and with Gaussian noise;
(b) 'plane': a bent 2-D flow under a linear and a non-linear measurement with noise. Samples are standardised by the exact
posterior, and the moments of what results are compared with 0 and the identity, the largest deviation of any entry counting:
`error_mean` in posterior standard deviations, `error_covariance` relative, and both in their own standard errors. Samples of
the constraint method are weighted, those of others count alike. Without noise what the measurement left free is compared;
where it left nothing, as a blur of all of these small events, `error_mean` is the worst error of any sample in deviations
before the measurement, and the rest is NaN.

`two_sample_p` is of the energy test (Szekely and Rizzo 2004) of as many draws against exact ones, which sees all of the
distribution and not its moments alone. A draw that is weighted is kept with a chance of its weight over the largest, so that
those kept count alike; `two_sample_draws` tells how many there were.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kept_rows import Row, Task, add_options, measure_and_write
from benchmarks.known_flows import gaussian_of, matrix_flow, measured_of, plane_flow
from jaxflows import inverse, measurements
from jaxflows.flows import Flow
from jaxflows.inverse.infer import Inference, infer
from jaxflows.inverse.method import Method
from jaxflows.inverse.noise_extension import operator_matrix
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, log_likelihood, noisy_measurement
from jaxflows.observation import LinearMeasurement, linear

NAME = "known_posteriors"
SHAPE = (2, 2, 3)
SIGMA = 0.2
# entries that tell of each other: a method that never leaves the prior must show
SPREAD = (0.1, 3.0)
# draws of each kind put to the two-sample test, and how often they are exchanged
TAKEN, EXCHANGES = 500, 999
OBSERVED = np.arange(12).reshape(SHAPE) % 3 == 0
# the methods beside ours run under these alone: what they do is the same under the others
COMPARED = ("entries", "gaussian")


class Known(NamedTuple):
    """A posterior whose moments are known, on flattened events.

    Attributes:
        mean: (d,).
        covariance: (d, d), singular where a measurement without noise leaves nothing free.
        log_evidence: log p(b) in nats.
        draws: (N, d), exact; None where the posterior is Gaussian.
        before: the largest variance of any direction before the measurement; that after it when None.
    """

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float
    draws: np.ndarray | None = None
    before: float | None = None

    def free(self) -> tuple[np.ndarray, np.ndarray]:
        """Variances and directions (d, free) in which the posterior has any spread."""
        values, vectors = np.linalg.eigh(self.covariance)
        some = values > 1e-8 * (values.max() if self.before is None else self.before)
        return values[some], vectors[:, some]


def operators() -> dict[str, LinearMeasurement]:
    """Every named linear measurement of the small events."""
    return {
        "entries": measurements.entries(OBSERVED),
        "gaussian": measurements.gaussian(SHAPE, 5),
        "average pooling": measurements.average_pooling(SHAPE, 2),
        "grey scale": measurements.grey_scale(SHAPE),
        "blur": measurements.blur(SHAPE, 1.0),
        "cosine": measurements.cosine(SHAPE, 2),
        "fourier": measurements.fourier(SHAPE, 0.5),
    }


def sampling_methods(quick: bool, exact: bool) -> list[Method]:
    """The methods that draw samples beside ours, with the published settings of the published ones."""
    few = 4 if quick else 1
    methods = [
        inverse.langevin(steps=1000 // few),
        inverse.mala(warm_up=2000 // few, steps=2000 // few),
        inverse.nuts(warm_up=500, steps=50 // few),
        inverse.pregenerator(steps=1000 // few, learning_rate=5e-3),
        inverse.ambient(steps=1000 // few, learning_rate=5e-3),
    ]
    return [*methods, inverse.plmcmc(steps=2000 // few)] if exact else methods


def standardised_errors(known: Known, samples: np.ndarray, log_weights: np.ndarray) -> Row:
    """Errors of the first two moments on the directions in which the posterior has any spread.

    Args:
        known: the posterior.
        samples: (S, *event).
        log_weights: (S,).
    """
    if known.before is not None and not known.free()[0].size:
        error = np.abs(np.asarray(samples, float).reshape(len(samples), -1) - known.mean).max() / np.sqrt(known.before)
        return {"error_mean": float(error)} | dict.fromkeys(("z_mean", "error_covariance", "z_covariance"), float("nan"))
    standard = standardised(known, samples)
    weights = np.exp(np.asarray(log_weights, float) - np.max(log_weights))
    weights /= weights.sum()
    products = (standard[:, :, None] * standard[:, None, :] - np.eye(standard.shape[1])).reshape(len(standard), -1)
    row = {}
    for name, terms in (("mean", standard), ("covariance", products)):
        error = weights @ terms
        deviation = np.sqrt(weights**2 @ (terms - error) ** 2)
        row |= {f"error_{name}": float(np.abs(error).max()), f"z_{name}": float(np.max(np.abs(error) / deviation))}
    return row


def standardised(known: Known, samples: np.ndarray) -> np.ndarray:
    """Samples (S, *event) by the posterior's moments, in the directions in which it has any spread, (S, free)."""
    values, vectors = known.free()
    flat = np.asarray(samples, float).reshape(len(samples), -1)
    return (flat - known.mean) @ vectors / np.sqrt(values)


def two_sample(known: Known, samples: np.ndarray, log_weights: np.ndarray, rng: np.random.Generator) -> Row:
    """The energy test of draws against exact ones, `TAKEN` of each at most."""
    if not known.free()[0].size:
        return {"two_sample_p": float("nan"), "two_sample_draws": 0}
    chances = np.exp(np.asarray(log_weights, float) - np.max(log_weights))
    ours = standardised(known, samples[rng.random(len(chances)) < chances][:TAKEN])
    if known.draws is None:
        exact = rng.standard_normal(ours.shape)
    else:
        exact = standardised(known, rng.choice(known.draws, len(ours), replace=False))
    return {"two_sample_p": energy_test(ours, exact, rng), "two_sample_draws": len(ours)}


def energy_test(ours: np.ndarray, exact: np.ndarray, rng: np.random.Generator) -> float:
    """The p-value that two samples (n, features) are of one distribution, by exchanging them at random.

        2 E|X - Y| - E|X - X'| - E|Y - Y'| = - s^T D s,     s = 1/n for one sample and -1/n for the other

    D holds the distances of all points.
    """
    points = np.concatenate([ours, exact])
    squares = np.sum(points**2, axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0))
    signs = np.repeat([1.0, -1.0], len(ours))
    exchanged = np.stack([signs, *(rng.permutation(signs) for _ in range(EXCHANGES))])
    energies = -np.sum((exchanged @ distances) * exchanged, axis=1)
    return float(np.mean(energies >= energies[0] - 1e-9 * abs(energies[0])))


def judged(case: str, measurement: str, noise: str, known: Known, found: Inference) -> Row:
    """The row of one run."""
    weights = np.asarray(found.log_weights, float)
    share = np.exp(weights - weights.max())
    counted = weights if found.method == "constraint" else np.zeros_like(weights)
    return {
        "case": case, "measurement": measurement, "noise": noise, "method": found.method,
        **standardised_errors(known, np.asarray(found.samples), counted),
        **two_sample(known, np.asarray(found.samples), counted, np.random.default_rng(2)),
        "misfit": float(jnp.sqrt(jnp.mean(found.misfit**2))), "log_evidence": known.log_evidence, "bound": found.bound,
        "ess_fraction": float(share.sum() ** 2 / (share**2).sum() / len(share)),
        "evaluations_per_sample": found.evaluations / len(weights), "samples": len(weights), "seconds": found.seconds,
        "notes": "; ".join(found.notes),
    }  # fmt: skip


def linear_tasks(quick: bool) -> dict[str, Task]:
    """An affine flow: our method under every measurement, the others under `COMPARED`."""
    flow, params = matrix_flow(SHAPE, seed=0, spread=SPREAD)
    moments = gaussian_of(flow, params)
    draws = 500 if quick else 2000
    tasks: dict[str, Task] = {}
    for name, operator in operators().items():
        if quick and name not in COMPARED:
            continue
        matrix = operator_matrix(operator).astype(float)
        values = matrix @ np.random.default_rng(1).multivariate_normal(*moments)
        for noise, sigma in (("none", 0.0), (f"gaussian {SIGMA}", SIGMA)):
            model = inverse.noise.gaussian(sigma) if sigma else inverse.noise.none()
            reading = noisy_measurement(operator, values, noise=model)
            exact = measured_of(*moments, matrix, sigma, np.asarray(reading.values, float))
            known = Known(*exact, before=float(np.linalg.eigvalsh(moments[1]).max()))
            methods = [inverse.constraint()]
            if name in COMPARED:
                methods += sampling_methods(quick, exact=name == "entries" and not sigma)
            for method in methods:
                task = functools.partial(measured, ("linear", name, noise), known, flow, params, reading, method, draws)
                tasks[f"linear, {name}, {noise}, {method.name}"] = task
    return tasks


def by_quadrature(flow: Flow, params: Any, reading: NoisyMeasurement, points: int) -> Known:
    """Moments, evidence and draws of a posterior in the plane, on an even grid."""
    side = np.linspace(-6.0, 6.5, points)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    log_joint = jax.jit(jax.vmap(lambda y: flow.log_prob(params, y) + log_likelihood(reading, 1.0, y)))
    values = np.concatenate([np.asarray(log_joint(part), float) for part in jnp.asarray(grid).reshape(points, points, 2)])
    top = values.max()
    chances = np.exp(values - top)
    log_evidence = top + np.log(chances.sum() * (side[1] - side[0]) ** 2)
    chances /= chances.sum()
    mean = chances @ grid
    rng, step = np.random.default_rng(3), side[1] - side[0]
    chosen = rng.choice(len(grid), 4 * TAKEN, p=chances)
    draws = grid[chosen] + step * (rng.random((len(chosen), 2)) - 0.5)
    return Known(mean, (grid - mean).T @ ((grid - mean) * chances[:, None]), float(log_evidence), draws)


def plane_readings() -> dict[str, NoisyMeasurement]:
    """Two measurements of an event in the plane: one linear, one of its distance from the origin."""
    noise = inverse.noise.gaussian(0.3)
    return {
        "linear": noisy_measurement(linear(np.array([[0.6, 0.8]])), [0.5], noise=noise),
        "distance": noisy_measurement(lambda y: jnp.sqrt(jnp.sum(y**2, keepdims=True) + 1e-12), [1.0], noise=noise),
    }


def plane_tasks(quick: bool) -> dict[str, Task]:
    """A bent flow in the plane: residual, so that a decode is a solve. It is trained when the first row is measured."""
    draws, readings = (200 if quick else 1000), plane_readings()

    @functools.cache
    def trained() -> tuple[Flow, Any]:
        return plane_flow(0, steps=200 if quick else 1500)

    @functools.cache
    def known(name: str) -> Known:
        return by_quadrature(*trained(), readings[name], 101 if quick else 401)

    def task(name: str, method: Method) -> Row:
        return measured(("plane", name, "gaussian 0.3"), known(name), *trained(), readings[name], method, draws)

    tasks: dict[str, Task] = {}
    for name, reading in readings.items():
        mala = inverse.mala(warm_up=50 if quick else 200, steps=50 if quick else 300)
        for method in (mala,) if reading.linear is None else (inverse.constraint(), mala):
            tasks[f"plane, {name}, gaussian 0.3, {method.name}"] = functools.partial(task, name, method)
    return tasks


def measured(
    case: tuple[str, str, str], known: Known, flow: Flow, params: Any, reading: NoisyMeasurement, method: Method, draws: int
) -> Row:
    """The row of one method; the case is its name, the measurement's and the noise's."""
    found = infer(jax.random.key(0), flow, params, reading, method=method, num_samples=draws)
    return judged(*case, known, found)


def main() -> None:
    """Run all cases and write results/known_posteriors.json."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{NAME}", description=__doc__.split("\n")[0])
    add_options(parser, NAME)
    options = parser.parse_args()
    measure_and_write(NAME, linear_tasks(options.quick) | plane_tasks(options.quick), options, seeds=[0, 1, 2, 3])


if __name__ == "__main__":
    main()
