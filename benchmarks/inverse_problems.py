"""Every method of `jaxflows.infer` on one flow a data set: inpainting, compressed sensing, super-resolution, colourisation.

    python -m benchmarks.inverse_problems --only mnist      # 50 digits, published step counts cut down: some hours of a core
    python -m benchmarks.inverse_problems --full --only mnist_whitened csgm asim map    # published steps, an hour of a core
    python -m benchmarks.inverse_problems --only cifar10 colourisation constraint csgm    # some data, tasks, methods
    python -m benchmarks.inverse_problems --full            # 10 colour images, published step counts: for a GPU
    python -m benchmarks.inverse_problems --only mnist --count 10 --steps 200 --draws 32 --max-seconds 400    # in between
    python -m benchmarks.inverse_problems --quick           # one task, few steps; writes to --run-dir

The flows are those that the package ships: `mnist` is that of `benchmarks.train_mnist_flow`, `mnist_whitened` and `cifar10` are
of `benchmarks.train_whitened_flow`. `--model` takes another.
What is measured, exactly, is an event as the flow models it: a test image with normal noise, or of few bits spread over their
cells, as the model's file says. `crps` and `coverage_90` are against this event; `psnr`, `ssim`, `rmse_mean` and `rmse_sample`
against the image without the noise, means clipped to [0, 1]. In inpainting whole pixels are hidden, and what was observed is
pasted into every sample first, after `misfit` was taken; scores but PSNR and SSIM are of hidden pixels alone. Points are scored
as samples that all agree; they have no coverage. `evaluations` and `seconds` are those of one image, the median (of seconds
without the first image, which compiles); `seconds_prepared` were spent once before any of them, on the training of the
amortised pre-generator or the fit of the Gaussian. `scaled` is the share of the published work that was done: 1 is all of it.
Methods that nobody published for these tasks (mala, hmc, nuts, amortised) count by their own defaults.

A finished row is kept in the run's folder, by its model and sizes: a second start goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.inverse_methods import METHODS, POINTS, Chosen, Problem, Sizes
from benchmarks.inverse_tasks import DATA, TASKS, pixels_of, readings
from benchmarks.kept_rows import Row, add_options, measure_and_write, output_dir
from benchmarks.results_file import read_rows
from jaxflows import metrics, persistence
from jaxflows.inverse.infer import Inference, infer
from jaxflows.inverse.noisy_measurements import NoisyMeasurement

NAME = "inverse_problems"
FULL = {"mnist": Sizes(50, 16, None, None), "mnist_whitened": Sizes(50, 8, None, None), "cifar10": Sizes(10, 8, None, None)}
SCALED = {"mnist": Sizes(50, 8, 50, 8), "mnist_whitened": Sizes(50, 8, 1000, 8), "cifar10": Sizes(10, 8, None, 8)}
QUICK = dict.fromkeys(DATA, Sizes(2, 4, 4, 4))
MOST_IMAGES = 300


def scores(clean: np.ndarray, events: np.ndarray, known: np.ndarray, samples: np.ndarray) -> Row:
    """The scores of samples (images, S, *event); of points where S is 1."""
    samples = np.where(known[:, None], events[:, None], samples)
    points = samples.shape[1] == 1
    if points:
        samples = np.repeat(samples, 2, axis=1)
    mean = np.clip(samples.mean(axis=1), 0.0, 1.0)
    each = [float(metrics.crps(*row)) for row in zip(samples[:, None], events[:, None], known[:, None], strict=True)]
    covered = metrics.interval_coverage(jax.random.key(0), samples, events, known, 0.9)
    return {
        "psnr": float(metrics.psnr(mean, clean)), "ssim": float(metrics.ssim(mean, clean)),
        "rmse_mean": float(metrics.rmse_mean(mean[:, None], clean, known)),
        "rmse_sample": float(metrics.rmse_sample(samples, clean, known)),
        "crps": float(np.mean(each)), "crps_std_error": float(np.std(each, ddof=1) / np.sqrt(len(each))),
        "coverage_90": float("nan") if points else float(covered),
    }  # fmt: skip


def loaded(data: str, model: Path, data_dir: Path, run_dir: Path) -> Problem:
    """The problems of a data set, but for task and sizes; SystemExit for a model that is missing or of other images."""
    try:
        flow, params, about = persistence.load(model)
        pixels = pixels_of(about)
    except persistence.ModelFileError as error:
        raise SystemExit(str(error)) from None
    except ValueError as error:
        raise SystemExit(f"{model}: {error}") from None
    size = DATA[data].test(data_dir)[0].size
    if flow.size != size or len(flow.event_shape) < 2:
        raise SystemExit(f"{model}: expected a flow of {data} images, {size} numbers each; got events {flow.event_shape}")
    checksum = hashlib.sha256(model.read_bytes()).hexdigest()[:8]
    return Problem(data, "", flow, params, pixels, checksum, Sizes(0, 0, None, None), data_dir, run_dir)


class Inferred(NamedTuple):
    """What a method inferred of the images of a task.

    Attributes:
        chosen: the method.
        clean, events: (images, *event), without and with the noise.
        known: (images, *event) boolean, entries that were observed themselves.
        readings: of every event.
        found: of every event.
    """

    chosen: Chosen
    clean: np.ndarray
    events: np.ndarray
    known: np.ndarray
    readings: list[NoisyMeasurement]
    found: list[Inference]


def inferred(problem: Problem, name: str) -> Inferred | None:
    """Infer the images of a task by a method; None where it cannot serve the task."""
    flow, sizes = problem.flow, problem.sizes
    images = DATA[problem.data].test(problem.data_dir)[: sizes.count].reshape(-1, *flow.event_shape)
    clean, events = problem.pixels.clean(images), problem.pixels.events(images)
    made, known = readings(problem.task, events)
    chosen = METHODS[name](problem)
    if chosen.method.refuse(flow, made[0]) is not None:
        return None
    count = 1 if name in POINTS else sizes.samples
    found = [
        infer(jax.random.key(number), flow, problem.params, reading, method=chosen.method, num_samples=count)
        for number, reading in enumerate(made)
    ]
    return Inferred(chosen, clean, events, known, made, found)


def measured(problem: Problem, name: str) -> Row | None:
    """The row of one task and method; None where the method cannot serve the task."""
    result = inferred(problem, name)
    if result is None:
        return None
    chosen, clean, events, known, _, found = result
    samples = np.stack([np.asarray(one.samples) for one in found])
    misfits = np.concatenate([np.asarray(one.misfit) for one in found])
    if clean.ndim == 4 and clean.shape[-1] == 1:
        # grey pictures have no channels to the scores
        clean, events, known, samples = clean[..., 0], events[..., 0], known[..., 0], samples[..., 0]
    return {
        "data": problem.data, "task": problem.task, "method": name, **scores(clean, events, known, samples),
        "misfit": float(np.sqrt(np.mean(misfits**2))), "evaluations": float(np.median([one.evaluations for one in found])),
        "seconds": float(np.median([one.seconds for one in found[1:]])),
        "seconds_with_compilation": sum(one.seconds for one in found),
        "seconds_prepared": chosen.prepared, "images": len(found), "samples": samples.shape[1], "scaled": chosen.scaled,
        "model": problem.checksum,
    }  # fmt: skip


def chosen_rows(only: list[str], quick: bool) -> list[tuple[str, str, str]]:
    """Data, task and method of every row asked for: of each of the three what is named, or everything."""

    def named(of_a_kind: Mapping[str, object], default: list[str]) -> list[str]:
        return [name for name in of_a_kind if name in only] or default

    data = named(DATA, ["mnist"] if quick else list(DATA))
    tasks = named(TASKS, ["inpainting_half"] if quick else list(TASKS))
    rows = itertools.product(data, tasks, named(METHODS, list(METHODS)))
    return [(source, task, method) for source, task, method in rows if task in DATA[source].tasks]


def main() -> None:
    """Measure every row chosen and write results/inverse_problems.json."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{NAME}", description=__doc__.split("\n")[0])
    names = (*DATA, *TASKS, *METHODS)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=[], metavar="NAME",
        help=f"some data, tasks and methods, of {', '.join(names)}; the other rows stay as they are",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, help="another flow of the one data set that is chosen")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--full", action="store_true", help="as many images and steps as were published: for a GPU")
    for name, of_what in (
        ("count", f"test images a row, at most {MOST_IMAGES}"), ("samples", "samples an image"), ("steps", "steps at most"),
        ("draws", "draws of a step of variational inference, at most"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, metavar="N", help=of_what)
    add_options(parser, NAME)
    options = parser.parse_args()
    if options.full and options.quick:
        parser.error("--full and --quick: give one of them")
    given = {name: getattr(options, name) for name in Sizes._fields if getattr(options, name) is not None}
    if any(value < 1 for value in given.values()) or given.get("count", 2) not in range(2, MOST_IMAGES + 1):
        parser.error(f"expected 2 to {MOST_IMAGES} images and at least 1 of samples, steps and draws; got {given}")
    chosen = chosen_rows(options.only, options.quick)
    if not chosen:
        parser.error(f"--only {' '.join(options.only)}: no such task is measured of these data")
    sources = list(dict.fromkeys(data for data, _, _ in chosen))
    if options.model is not None and len(sources) > 1:
        parser.error(f"--model {options.model}: expected one data set in --only; got {' and '.join(sources)}")
    problems = {}
    for data in sources:
        model = options.model or DATA[data].model
        sizes = (FULL if options.full else QUICK if options.quick else SCALED)[data]._replace(**given)
        problems[data] = loaded(data, model, options.data_dir, options.run_dir)._replace(sizes=sizes)
    tasks, kept = {}, {}
    for data, task, method in chosen:
        problem = problems[data]._replace(task=task)
        kept[data, task, method] = "_".join([data, task, method, *map(str, problem.sizes), problem.checksum])
        tasks[kept[data, task, method]] = functools.partial(measured, problem, method)
    earlier = {(row["data"], row["task"], row["method"]): row for row in read_rows(NAME, output_dir(options))}

    def arrange(rows: Mapping[str, Row | None]) -> list[Row]:
        # a row that was chosen but not reached stays too
        every = itertools.product(DATA, TASKS, METHODS)
        found = [rows[kept[row]] if kept.get(row) in rows else earlier.get(row) for row in every]
        return [row for row in found if row is not None]

    most = max(problem.sizes.count for problem in problems.values())
    measure_and_write(NAME, tasks, options, seeds=range(most), arrange=arrange)


if __name__ == "__main__":
    main()
