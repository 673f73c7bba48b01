"""``jaxflows infer``: measure images, infer them from the measurements, print how well, draw and keep them."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError
from jaxflows.cli.models import DEFAULT_MODEL, PACKAGED, Model, load_model, model_path
from jaxflows.cli.stop_signals import termination_interrupts, uninterrupted

if TYPE_CHECKING:
    from jaxflows.cli.inferred_rows import Problem
    from jaxflows.inverse.infer import Inference
    from jaxflows.inverse.method import Method
    from jaxflows.inverse.noisy_measurements import NoisyMeasurement
    from jaxflows.observation import LinearMeasurement

_DEFAULT_DIGITS = slice(0, 8)

_EPILOG = """measurements: pool:K (means of K x K pixels), gaussian:M (random projections), grey (of colours), blur:S (pixels),
dct:M (lowest frequencies), fourier:SHARE (of the frequencies); or a mask by name, all, missing:FRACTION, centre:SIDE, left,
right, top, bottom, whose observed pixels are measured. One measurement for all rows. DATA is measured here, and is the truth:
measurements of your own go to jaxflows.infer in Python.

examples:
  jaxflows infer --measurement pool:2                     8 shipped digits from a quarter of their resolution
  jaxflows infer --measurement pool:2 --method constraint image.png
  jaxflows infer --measurement gaussian:100 --noise 0.05 --rows 0:4 --save inferred.npz
  jaxflows infer --measurement missing:0.5 --method mala --steps 200
  jaxflows infer --measurement grey --model cifar10 photo.png            colours of 32x32 pixels

The same seed gives the same picture and the same .npz, bit for bit, on the same machine.
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "infer",
        help="infer images from measurements of them",
        description="Measure images and infer them from the measurements; without DATA, shipped MNIST test digits.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help=".npz, .npy, .csv, IDX or image: complete rows")
    parser.add_argument("--key", metavar="NAME", help="which array of an .npz")
    parser.add_argument("--rows", type=types.row_range, metavar="BEGIN:END", help="rows to take (default: all)")
    parser.add_argument("--measurement", type=types.measurement, default="pool:2", metavar="NAME", help="default: pool:2")
    parser.add_argument(
        "--noise", type=types.non_negative, default=0.0, metavar="STD", help="of Gaussian noise added to what is measured"
    )
    parser.add_argument("--method", type=types.method, default="constraint", metavar="NAME", help="default: constraint")
    parser.add_argument(
        "--steps", type=types.count(1), metavar="N", help="of the method, and of its warm-up (default: its own)"
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="MODEL",
        help=f"a saved model, or one of {', '.join(PACKAGED)} (default: {DEFAULT_MODEL})",
    )  # fmt: skip
    parser.add_argument("--scale", type=types.positive, help="divide DATA by this (default: 8-bit images by 255)")
    parser.add_argument("--samples", type=types.count(1), default=16, metavar="N", help="draws a row (default: 16)")
    parser.add_argument("--seed", type=types.count(0), default=0, metavar="S", help="of all that is random (default: 0)")
    parser.add_argument(
        "--output", type=types.picture, default=Path("inference.png"), metavar="PICTURE", help="default: inference.png"
    )
    parser.add_argument("--save", type=types.named(".npz"), metavar="RESULT", help="keep samples and diagnostics as .npz")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, infer, print, draw and keep. Returns 0, or 130 when an interrupt left rows undone."""
    model_path(options.model)
    rescue: Path = options.save or options.output.with_suffix(".npz")
    types.check_writable("--output", options.output)
    types.check_writable("--save", rescue)
    with termination_interrupts():
        problem, operator, model, notes = _problem(options)
        method = _method(options, model, operator, problem)
        if not options.quiet:
            print(*notes, sep="\n", end="\n" if notes else "")
        found = _work(options, problem, operator, model, method)
        with uninterrupted():
            return _report(options, rescue, problem, found, model)


def _problem(options: argparse.Namespace) -> tuple[Problem, LinearMeasurement, Model, list[str]]:
    import jax
    import numpy as np

    from jaxflows.cli import input_rows
    from jaxflows.cli.inferred_rows import Problem
    from jaxflows.cli.named_measurements import hidden_entries, named_measurement, simulated

    model = load_model(options.model)
    array = input_rows.read_data(options.data, options.key, colour=model.in_colour)
    if options.scale is not None:
        array = (array / options.scale).astype(np.float32)
    chosen = options.rows or (_DEFAULT_DIGITS if options.data is None else slice(0, None))
    if model.image_shape is None:
        raise CommandError(f"--model {model.name}: expected a model of images; got events of shape {model.flow.event_shape}")
    owner = f"--model {model.name}"
    rows = input_rows.fit_rows(array, options.data, model.flow.event_shape, chosen, model.pixel_scale, owner)
    input_rows.check_finite(rows)
    operator = named_measurement(options.measurement, model.image_shape, model.flow.event_shape, options.seed)
    values = simulated(operator, rows.values, options.noise, rows.numbers, options.seed)
    settings = {
        "measurement": options.measurement.text, "noise": options.noise, "method": options.method, "steps": options.steps,
        "samples": options.samples, "seed": options.seed, "model": model.name, "fingerprint": model.fingerprint,
        "source": rows.source,
    }  # fmt: skip
    problem = Problem(
        truth=rows.values, numbers=rows.numbers, values=values,
        observations=np.asarray(jax.vmap(operator.pseudo_inverse)(values)), hidden=hidden_entries(operator),
        settings=settings,
    )  # fmt: skip
    return problem, operator, model, list(rows.notes)


def _method(options: argparse.Namespace, model: Model, operator: LinearMeasurement, problem: Problem) -> Method:
    """The method with its options, after asking whether it can serve."""
    from jaxflows.inverse.infer import factory_of

    factory = factory_of(options.method)
    taken = inspect.signature(factory).parameters
    if options.steps is not None and "steps" not in taken:
        raise CommandError(f"--steps {options.steps}: the method {options.method} takes no steps; leave it out")
    if options.method == "gaussian":
        if model.baseline is None:
            raise CommandError(f"--method gaussian: expected a model that brings its data's Gaussian, {DEFAULT_MODEL}")
        method = factory(model.baseline())
    else:
        steps = {} if options.steps is None else {name: options.steps for name in ("warm_up", "steps") if name in taken}
        method = factory(**steps)
    reason = method.refuse(model.flow, _reading(options, operator, problem.values[0]))
    if reason is not None:
        raise CommandError(f"--method {options.method}: cannot serve {options.measurement.text}: {reason}")
    return method


def _reading(options: argparse.Namespace, operator: LinearMeasurement, values: Any) -> NoisyMeasurement:
    from jaxflows.inverse import noise, noisy_measurement

    return noisy_measurement(operator, values, noise=noise.gaussian(options.noise) if options.noise else noise.none())


def _work(
    options: argparse.Namespace, problem: Problem, operator: LinearMeasurement, model: Model, method: Method
) -> list[Inference]:
    """What was inferred of each row; of the first rows where an interrupt came."""
    import jax

    from jaxflows.inverse.infer import infer
    from jaxflows.progress import progress_bar

    key, found = jax.random.key(options.seed), []
    bar = progress_bar(len(problem.truth), description="infer", unit="row", show=not options.quiet)
    with contextlib.suppress(KeyboardInterrupt), bar:
        for number, values in zip(problem.numbers, problem.values, strict=True):
            own, reading = jax.random.fold_in(key, int(number)), _reading(options, operator, values)
            found.append(infer(own, model.flow, model.params, reading, method=method, num_samples=options.samples))
            bar.update(1)
    return found


def _report(options: argparse.Namespace, rescue: Path, problem: Problem, found: list[Inference], model: Model) -> int:
    from jaxflows.cli.inferred_rows import inference_table, notes_by_row, write_inferred

    total, done = len(problem.truth), len(found)
    if not done:
        print("jaxflows: interrupted before the first row was done; nothing was written", file=sys.stderr)
        return 130
    problem = problem.first(done)
    _draw(options, problem, found, model)
    kept = [str(options.output)]
    if options.save or done < total:
        write_inferred(rescue, problem, found)
        kept.append(str(rescue))
    if not options.quiet:
        print(*notes_by_row(problem, found), inference_table(problem, found), f"wrote {' and '.join(kept)}", sep="\n")
    if done == total:
        return 0
    print(f"jaxflows: interrupted with {done} of {total} rows done, kept in {rescue}", file=sys.stderr)
    return 130


def _draw(options: argparse.Namespace, problem: Problem, found: list[Inference], model: Model) -> None:
    import numpy as np

    from jaxflows.cli.inferred_rows import flagged, samples_of
    from jaxflows.cli.named_measurements import describe_measurement, pictured
    from jaxflows.plotting import inference_figure, save_figure

    shape, samples = model.image_shape, samples_of(found)
    assert shape is not None
    rows = len(found)
    figure = inference_figure(
        problem.truth.reshape(rows, *shape),
        pictured(options.measurement, problem.values, problem.observations.reshape(rows, *shape)),
        samples.reshape(*samples.shape[:2], *shape), flagged=flagged(found),
        hidden=np.broadcast_to(problem.hidden.reshape(shape), (rows, *shape)),
        title=f"{describe_measurement(options.measurement, options.noise)}: {options.method}",
    )  # fmt: skip
    save_figure(figure, options.output)
