"""Every method of `jaxflows.infer` on one flow: inpainting, compressed sensing and super-resolution of MNIST test digits.

    python -m benchmarks.inverse_problems            # half an hour or more on two cores, published step counts cut down
    python -m benchmarks.inverse_problems --only inpainting_half --methods constraint csgm    # the others keep their rows
    python -m benchmarks.inverse_problems --full     # 50 digits, published step counts: hours on a GPU
    python -m benchmarks.inverse_problems --digits 10 --steps 200 --draws 32 --max-seconds 400    # in between
    python -m benchmarks.inverse_problems --quick    # one task, few steps; writes to runs/

The flow is the shipped one, of pixels plus N(0, 0.05^2). What is measured, exactly, is a digit with such noise: an event as
the flow models it. `crps` and `coverage_90` are against this event; `psnr`, `ssim`, `rmse_mean` and `rmse_sample` against the
digit without the noise, means clipped to [0, 1]. In inpainting what was observed is pasted into every sample first, after
`misfit` was taken, and scores but PSNR and SSIM are of hidden pixels alone. Points are scored as samples that all agree; they
have no coverage. `evaluations` and `seconds` are those of one digit, the median, so without compilation. `scaled` is the share
of the published work of a method that was done: 1 is all of it.

A finished pair of task and method is kept in the run's folder, by the sizes it was done at: a second start goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kept_rows import Row, add_options, measure_and_write, output_dir
from benchmarks.results_file import read_rows
from jaxflows import inverse, measurements, metrics, persistence
from jaxflows.data import load_digits_sample, named_mask
from jaxflows.inverse.infer import infer
from jaxflows.inverse.method import Method
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement
from jaxflows.observation import LinearMeasurement

NAME = "inverse_problems"
MODEL = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "mnist_residual.safetensors"
SHAPE = (28, 28)
PIXEL_NOISE = 0.05
# one point, however many samples are asked for
POINTS = ("csgm", "asim", "map", "sparse_dct", "sparse_haar")


class Sizes(NamedTuple):
    """How much is done.

    Attributes:
        digits: test digits a pair of task and method.
        samples: a digit, of methods that draw any.
        steps: of methods that take steps, at most; None for the published number.
        draws: of a step of variational inference, at most; None for the published number.
    """

    digits: int
    samples: int
    steps: int | None
    draws: int | None


FULL, SCALED, QUICK = Sizes(50, 16, None, None), Sizes(5, 8, 50, 8), Sizes(2, 4, 4, 4)


class Chosen(NamedTuple):
    """A method with its options, and the share of the published work that they are."""

    method: Method
    scaled: float


def _cut(published: int, most: int | None) -> int:
    return published if most is None else min(published, most)


def _variational(factory: Callable[..., Method], task: str, sizes: Sizes) -> Chosen:
    # the supplement, C.3: compressed sensing takes four times the steps at half the rate, super-resolution half the rate
    compressed, inpainting = task.startswith("compressed"), task.startswith("inpainting")
    published = 4000 if compressed else 1000
    steps, draws = _cut(published, sizes.steps), _cut(64, sizes.draws)
    # a fit cut short at the published rate has not left the prior
    rate = (1e-3 if inpainting else 5e-4) if steps == published else 1e-2
    return Chosen(factory(steps=steps, num_draws=draws, learning_rate=rate), steps * draws / (published * 64))


def _stepped(factory: Callable[..., Method], published: int, sizes: Sizes, **options: Any) -> Chosen:
    steps = _cut(published, sizes.steps)
    return Chosen(factory(steps=steps, **options), steps / published)


def _mala(sizes: Sizes) -> Chosen:
    each = _cut(1000, None if sizes.steps is None else max(1, sizes.steps // 2))
    return Chosen(inverse.mala(warm_up=each, steps=each), each / 1000)


# name -> the method for a task and sizes, with the published settings of the published ones
METHODS: dict[str, Callable[[str, Sizes], Chosen]] = {
    "constraint": lambda task, sizes: Chosen(inverse.constraint(), 1.0),
    "gaussian": lambda task, sizes: Chosen(inverse.gaussian(metrics.load_mnist_gaussian()), 1.0),
    "sparse_dct": lambda task, sizes: Chosen(inverse.sparse(), 1.0),
    "sparse_haar": lambda task, sizes: Chosen(inverse.sparse(basis="haar"), 1.0),
    "csgm": lambda task, sizes: _stepped(inverse.csgm, 1000, sizes),
    "asim": lambda task, sizes: _stepped(inverse.asim, 600, sizes),
    "map": lambda task, sizes: _stepped(inverse.most_probable, 400, sizes),
    "langevin": lambda task, sizes: _stepped(inverse.langevin, 4000, sizes),
    "mala": lambda task, sizes: _mala(sizes),
    "pregenerator": lambda task, sizes: _variational(inverse.pregenerator, task, sizes),
    "ambient": lambda task, sizes: _variational(inverse.ambient, task, sizes),
    # two exact log-determinants a step: cut further
    "plmcmc": lambda task, sizes: _stepped(
        inverse.plmcmc, 2000, sizes if sizes.steps is None else sizes._replace(steps=min(20, sizes.steps))
    ),
}


def hidden_at_random(share: float, seed: int) -> np.ndarray:
    """A mask, True where observed: exactly this share hidden, so as many for every digit, and one program for all."""
    size = int(np.prod(SHAPE))
    observed = np.ones(size, bool)
    observed[np.random.default_rng(seed).permutation(size)[: round(share * size)]] = False
    return observed.reshape(SHAPE)


# name -> the measurement of a digit, by its number
TASKS: dict[str, Callable[[int], LinearMeasurement]] = {
    "inpainting_centre": lambda digit: measurements.entries(named_mask("centre:8", SHAPE)),
    "inpainting_half": lambda digit: measurements.entries(named_mask("left", SHAPE)),
    "inpainting_random_50": lambda digit: measurements.entries(hidden_at_random(0.5, digit)),
    "inpainting_random_90": lambda digit: measurements.entries(hidden_at_random(0.9, digit)),
    **{
        f"compressed_sensing_{count}": lambda digit, count=count: measurements.gaussian(SHAPE, count)
        for count in (25, 50, 100, 200, 400)
    },
    **{
        f"super_resolution_{factor}": lambda digit, factor=factor: measurements.average_pooling(SHAPE, factor)
        for factor in (2, 4)
    },
}


def digits_and_events(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Test digits (count, 28, 28) in [0, 1], and the same with the noise that the flow models."""
    digits = (load_digits_sample()[0][:count] / 255.0).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((300, *SHAPE))[:count]
    return digits, (digits + PIXEL_NOISE * noise).astype(np.float32)


def readings(task: str, events: np.ndarray) -> tuple[list[NoisyMeasurement], np.ndarray]:
    """What is read of every event, and which of its entries are then known: none unless entries themselves were measured."""
    made, known, operator = [], np.zeros(events.shape, bool), None
    for number, event in enumerate(events):
        if operator is None or task.startswith("inpainting"):
            operator = TASKS[task](number)
        made.append(noisy_measurement(operator, np.asarray(operator.measure(jnp.asarray(event)))))
        if task.startswith("inpainting"):
            known[number] = np.asarray(operator.observation.observed)
    return made, known


def scores(digits: np.ndarray, events: np.ndarray, known: np.ndarray, samples: np.ndarray) -> Row:
    """The scores of samples (digits, S, 28, 28); of points where S is 1."""
    samples = np.where(known[:, None], events[:, None], samples)
    points = samples.shape[1] == 1
    if points:
        samples = np.repeat(samples, 2, axis=1)
    mean = np.clip(samples.mean(axis=1), 0.0, 1.0)
    each = [float(metrics.crps(*row)) for row in zip(samples[:, None], events[:, None], known[:, None], strict=True)]
    covered = metrics.interval_coverage(jax.random.key(0), samples, events, known, 0.9)
    return {
        "psnr": float(metrics.psnr(mean, digits)), "ssim": float(metrics.ssim(mean, digits)),
        "rmse_mean": float(metrics.rmse_mean(mean[:, None], digits, known)),
        "rmse_sample": float(metrics.rmse_sample(samples, digits, known)),
        "crps": float(np.mean(each)), "crps_std_error": float(np.std(each, ddof=1) / np.sqrt(len(each))),
        "coverage_90": float("nan") if points else float(covered),
    }  # fmt: skip


def measured(task: str, name: str, sizes: Sizes) -> Row | None:
    """The row of one task and method; None where the method cannot serve the task."""
    flow, params, _ = persistence.load(MODEL)
    digits, events = digits_and_events(sizes.digits)
    made, known = readings(task, events)
    chosen = METHODS[name](task, sizes)
    if chosen.method.refuse(flow, made[0]) is not None:
        return None
    count = 1 if name in POINTS else sizes.samples
    found = [
        infer(jax.random.key(number), flow, params, reading, method=chosen.method, num_samples=count)
        for number, reading in enumerate(made)
    ]
    samples = np.stack([np.asarray(one.samples) for one in found])
    misfits = np.concatenate([np.asarray(one.misfit) for one in found])
    return {
        "data": "mnist", "task": task, "method": name, **scores(digits, events, known, samples),
        "misfit": float(np.sqrt(np.mean(misfits**2))), "evaluations": float(np.median([one.evaluations for one in found])),
        "seconds": float(np.median([one.seconds for one in found])), "seconds_with_compilation": sum(o.seconds for o in found),
        "digits": sizes.digits, "samples": samples.shape[1], "scaled": chosen.scaled,
    }  # fmt: skip


def main() -> None:
    """Measure every pair of task and method and write results/inverse_problems.json."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{NAME}", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=tuple(TASKS), metavar="TASK", help="some tasks; the others keep their rows"
    )
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), metavar="NAME", help="some; the others keep their rows")
    parser.add_argument("--full", action="store_true", help="50 digits and the published step counts: for a GPU")
    for name, of_what in (
        ("digits", "a pair of task and method, at most 300"), ("samples", "a digit"), ("steps", "at most"),
        ("draws", "of a step of variational inference, at most"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{name} {of_what}")
    add_options(parser, NAME)
    options = parser.parse_args()
    if options.full and options.quick:
        parser.error("--full and --quick: give one of them")
    given = {name: getattr(options, name) for name in Sizes._fields if getattr(options, name) is not None}
    if any(value < 1 for value in given.values()) or given.get("digits", 2) not in range(2, 301):
        parser.error(f"expected 2 to 300 digits and at least 1 of samples, steps and draws; got {given}")
    sizes = (FULL if options.full else QUICK if options.quick else SCALED)._replace(**given)
    tasks = options.only or (["inpainting_half"] if options.quick else list(TASKS))
    pairs = {
        (task, name): f"{task}_{name}_{'_'.join(map(str, sizes))}" for task in tasks for name in options.methods or METHODS
    }
    earlier = {(row["task"], row["method"]): row for row in read_rows(NAME, output_dir(options))}

    def arrange(rows: Mapping[str, Row | None]) -> list[Row]:
        # a pair that was chosen but not reached keeps its row too
        found = [
            rows[pairs[pair]] if pairs.get(pair) in rows else earlier.get(pair) for pair in itertools.product(TASKS, METHODS)
        ]
        return [row for row in found if row is not None]

    measure_and_write(
        NAME, {kept: functools.partial(measured, *pair, sizes) for pair, kept in pairs.items()}, options,
        seeds=range(sizes.digits), arrange=arrange,
    )  # fmt: skip


if __name__ == "__main__":
    main()
