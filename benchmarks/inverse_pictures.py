"""A picture of every task of `benchmarks.inverse_problems`: what was read, what methods infer of it, and the truth.

    python -m benchmarks.inverse_pictures --only cifar10              # the published steps: some minutes a task of a core
    python -m benchmarks.inverse_pictures --only mnist --steps 50     # as that benchmark cuts them for the digits
    python -m benchmarks.inverse_pictures --only cifar10 colourisation constraint csgm    # some tasks, other methods

Columns are the first test images. Of methods that draw there is a draw, the mean and the deviation of 8, of others their point.
Draws have the noise that the flow models, the truth has none. Flows, images, measurements, methods and keys are those of the
benchmark: pictures show what its rows score. A method whose samples are not finite, or that cannot serve the task, is left out,
and said to be. Writes docs/inverse/DATA_TASK.png.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.inverse_methods import METHODS, Problem, Sizes
from benchmarks.inverse_problems import chosen_rows, inferred, loaded
from benchmarks.inverse_tasks import DATA, TASKS
from jaxflows.cli.argument_types import measurement
from jaxflows.cli.named_measurements import pictured
from jaxflows.plotting import comparison_figure, save_figure

FOLDER = Path(__file__).parents[1] / "docs" / "inverse"
SHOWN = ("constraint", "gaussian", "asim")
SAMPLES = 8


def task_figure(problem: Problem, names: list[str]) -> tuple[Figure, list[str]]:
    """The picture of a task, and the methods that are not in it."""
    shape = problem.flow.event_shape
    shape = shape[:2] if shape[2:] == (1,) else shape
    samples, absent, result = {}, [], None
    for name in names:
        made = inferred(problem, name)
        drawn = None if made is None else np.stack([np.asarray(one.samples) for one in made.found])
        if made is None or drawn is None or not np.isfinite(drawn).all():
            absent.append(name)
            continue
        result, samples[name] = made, drawn.reshape(*drawn.shape[:2], *shape)
    if result is None:
        raise SystemExit(f"{problem.task}: none of {', '.join(names)} can serve it")
    operators = [reading.linear for reading in result.readings]
    values = np.stack([np.asarray(reading.values) for reading in result.readings])
    back = np.stack([np.asarray(op.pseudo_inverse(read)) for op, read in zip(operators, values, strict=True) if op is not None])
    observations = pictured(measurement("grey"), values, back) if problem.task == "colourisation" else back
    hidden = ~result.known if result.known.any() else None
    figure = comparison_figure(
        *(array.reshape(-1, *shape) for array in (result.clean, observations)), samples,
        hidden=None if hidden is None else hidden.reshape(-1, *shape), title=problem.task.replace("_", " "),
    )  # fmt: skip
    return figure, absent


def main() -> None:
    """Draw every task chosen."""
    parser = argparse.ArgumentParser(prog="benchmarks.inverse_pictures", description=__doc__.split("\n")[0])
    names = (*DATA, *TASKS, *METHODS)
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/inverse_problems"), help="where what was fitted is kept")
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=4, metavar="N", help="images")
    parser.add_argument("--steps", type=int, metavar="N", help="steps at most (default: as published)")
    options = parser.parse_args()
    if options.count < 1 or (options.steps is not None and options.steps < 1):
        parser.error(f"expected at least 1 image and 1 step; got {options.count} and {options.steps}")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    methods = [name for name in METHODS if name in options.only] or list(SHOWN)
    sizes = Sizes(options.count, SAMPLES, options.steps, None)
    chosen = dict.fromkeys((data, task) for data, task, _ in chosen_rows(options.only, False))
    problems = {data: loaded(data, DATA[data].model, options.data_dir, options.run_dir) for data, _ in chosen}
    with jax.default_matmul_precision("highest"):
        for data, task in chosen:
            figure, absent = task_figure(problems[data]._replace(task=task, sizes=sizes), methods)
            path = options.output_dir / f"{data}_{task}.png"
            save_figure(figure, path)
            print(f"{path}" + (f"; without {', '.join(absent)}" if absent else ""), flush=True)


if __name__ == "__main__":
    main()
