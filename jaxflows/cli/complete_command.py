"""``jaxflows complete``: complete rows, print how well, draw them, keep them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError
from jaxflows.cli.models import DEFAULT_MODEL, PACKAGED, Model, fit_steps_of, load_model, model_path, posterior_of
from jaxflows.cli.stop_signals import termination_interrupts, uninterrupted

if TYPE_CHECKING:
    from jaxflows.cli.completed_rows import Task
    from jaxflows.conditional.completion import Completion

# what a run takes where nothing is asked for; kept apart from argparse so that --resume can tell what was asked for
_DEFAULTS: dict[str, Any] = {"model": DEFAULT_MODEL, "samples": 32, "seed": 0, "anchors": 1, "antithetic": False}
_DEFAULT_MASKS = ("missing:0.5", "centre:8")
_DEFAULT_DIGITS = slice(0, 8)
_FIXED_BY_RESUME = (
    "data", "key", "mask", "rows", "scale", "samples", "seed", "posterior", "steps", "anchors", "moves", "chains", "antithetic",
    "unweighted",
)  # fmt: skip

_EPILOG = """masks: all, none, missing:FRACTION, centre:SIDE, left, right, top, bottom, or a file (.npy, .npz, .csv, an
image), non-zero where observed, one for all rows or one a row. Without --mask the NaN entries of DATA are missing.

examples:
  jaxflows complete                                    8 shipped digits with half their pixels missing, and 8 x 8 holes
  jaxflows complete scan.png --mask hole.png           one image, a mask drawn by hand
  jaxflows complete t10k-images-idx3-ubyte.gz --rows 0:16 --mask missing:0.9 --mask left
  jaxflows complete table.csv --model my.safetensors --posterior householder:20 --save table.npz
  jaxflows complete table.csv --model my.safetensors --anchors 8          a posterior of several modes
  jaxflows complete --resume completion.npz            go on after an interrupt

The same seed gives the same picture and the same .npz, bit for bit, on the same machine.
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "complete",
        help="complete what is missing from rows of data",
        description="Draw completions of rows given their observed entries; without DATA, of shipped MNIST test digits.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help=".npz, .npy, .csv, IDX or image; NaN is missing")
    parser.add_argument("--key", metavar="NAME", help="which array of an .npz")
    parser.add_argument("--rows", type=types.row_range, metavar="BEGIN:END", help="rows to take (default: all)")
    parser.add_argument("--mask", action="append", metavar="MASK", help="a named mask or a file; repeat it for several")
    parser.add_argument(
        "--model", metavar="MODEL", help=f"a saved model, or one of {', '.join(PACKAGED)} (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--scale", type=types.positive, help="divide DATA by this (default: 8-bit images by 255)")
    parser.add_argument("--samples", type=types.count(1), metavar="N", help="draws a row (default: 32)")
    parser.add_argument("--seed", type=types.count(0), metavar="S", help="of masks and draws (default: 0)")
    parser.add_argument(
        "--posterior", type=types.posterior, metavar="NAME",
        help="gauss_newton (default, no fit), mean_field, full_rank, householder:N, prior, or amortised: the network of a "
        "model trained with --incomplete",
    )  # fmt: skip
    parser.add_argument(
        "--steps",
        type=types.count(1),
        metavar="N",
        help="of the fit of mean_field, full_rank, householder (default: 200) or amortised (default: none)",
    )
    parser.add_argument(
        "--anchors",
        type=types.count(1),
        metavar="M",
        help="places to search for a mode from, where there are several (default: 1)",
    )
    parser.add_argument(
        "--moves", type=types.count(0), metavar="N",
        help="Hamiltonian moves of every draw (default: none, but 48 for flows that are explicit both ways of large events)",
    )  # fmt: skip
    parser.add_argument(
        "--chains", type=types.count(1), metavar="N",
        help="how many chains the draws of --unweighted --moves are of (default: as many as draws)",
    )  # fmt: skip
    parser.add_argument("--antithetic", action="store_const", const=True, help="draw in pairs whose errors cancel in the mean")
    parser.add_argument("--unweighted", action="store_const", const=True, help="no weights, no effective sample size: faster")
    parser.add_argument(
        "--output", type=types.picture, default=Path("completion.png"), metavar="PICTURE", help="default: completion.png"
    )
    parser.add_argument("--save", type=types.named(".npz"), metavar="RESULT", help="keep samples and diagnostics as .npz")
    parser.add_argument("--resume", type=types.named(".npz"), metavar="RESULT", help="go on with an interrupted result")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Complete, print, draw and keep. Returns 0, or 130 when an interrupt left rows undone."""
    rescue = _check(options)
    with termination_interrupts():
        task, before, model, notes = _resumed(options) if options.resume else _new_task(options)
        say = _silent if options.quiet else print
        for note in notes:
            say(note)
        completion = _work(task, before, model, progress=not options.quiet)
        with uninterrupted():
            return _report(options, rescue, task, completion, model, say)


def _silent(text: str) -> None:
    del text


def _check(options: argparse.Namespace) -> Path:
    """Everything that can be checked without JAX; returns where rows are kept if an interrupt comes."""
    from jaxflows.cli.input_rows import check_mask

    if options.resume:
        given = [name for name in _FIXED_BY_RESUME if getattr(options, name) is not None]
        if given:
            name = "DATA" if given[0] == "data" else f"--{given[0]}"
            raise CommandError(f"{name}: fixed by --resume {options.resume}; leave it out")
    for mask in options.mask or ():
        check_mask(mask)
    if options.model is not None:
        model_path(options.model)
    rescue: Path = options.save or options.resume or options.output.with_suffix(".npz")
    types.check_writable("--output", options.output)
    types.check_writable("--save", rescue)
    return rescue


def _new_task(options: argparse.Namespace) -> tuple[Task, Completion | None, Model, list[str]]:
    import numpy as np

    from jaxflows.cli import input_rows

    wanted = {name: _DEFAULTS[name] if getattr(options, name) is None else getattr(options, name) for name in _DEFAULTS}
    model = load_model(wanted["model"])
    array = input_rows.read_data(options.data, options.key, colour=model.in_colour)
    if options.scale is not None:
        array = (array / options.scale).astype(np.float32)
    chosen = options.rows or (_DEFAULT_DIGITS if options.data is None else slice(0, None))
    masks = tuple(options.mask or (_DEFAULT_MASKS if options.data is None else (input_rows.NAN_MASK,)))

    from jaxflows.cli.completed_rows import Task
    from jaxflows.conditional.drawing_plan import drawing_plan
    from jaxflows.conditional.row_posteriors import posterior_choice

    owner = f"--model {model.name}"
    rows = input_rows.fit_rows(array, options.data, model.flow.event_shape, chosen, model.pixel_scale, owner)
    shape = model.image_shape or model.flow.event_shape
    observed = [input_rows.observed_entries(mask, rows, shape, wanted["seed"]) for mask in masks]
    posterior = "gauss_newton" if options.posterior is None else options.posterior.text
    weighted = False if options.unweighted else None
    # asked for here, so that what cannot be is refused before any work
    chosen_posterior = posterior_of(posterior, model)
    try:
        family = posterior_choice(chosen_posterior, None, "auto", options.steps).family
        drawing_plan(
            model.flow, family, "auto", weighted, options.moves, wanted["antithetic"], wanted["anchors"], wanted["samples"],
            options.chains,
        )  # fmt: skip
    except ValueError as error:
        raise CommandError(str(error)) from None
    settings = wanted | {
        "moves": options.moves, "chains": options.chains, "weighted": weighted,
        "posterior": posterior, "steps": fit_steps_of(posterior, options.steps), "fingerprint": model.fingerprint,
        "source": rows.source, "masks": list(masks),
    }  # fmt: skip
    task = Task(
        rows=np.concatenate([rows.values] * len(masks)),
        observed=np.concatenate(observed),
        numbers=np.tile(rows.numbers, len(masks)),
        mask_of=np.repeat(np.arange(len(masks)), len(rows.values)),
        settings=settings,
    )
    notes = list(rows.notes)
    if masks == (input_rows.NAN_MASK,) and task.observed.all():
        notes.append(f"{rows.source}: nothing is missing (no NaN, no --mask)")
    return task, None, model, notes


def _resumed(options: argparse.Namespace) -> tuple[Task, Completion, Model, list[str]]:
    from jaxflows.cli.completed_rows import read_completed

    task, before = read_completed(options.resume)
    model = load_model(options.model or task.settings["model"])
    if model.fingerprint != task.settings["fingerprint"]:
        raise CommandError(f"--model {model.name}: not the model that {options.resume} was made with")
    done, count = int(before.info.done.sum()), len(task.rows)
    return task, before, model, [f"{options.resume}: {done} of {count} rows done before"]


def _work(task: Task, before: Completion | None, model: Model, *, progress: bool) -> Completion:
    import jax

    from jaxflows.conditional.complete import complete

    settings = task.settings
    return complete(
        jax.random.key(settings["seed"]), model.flow, model.params, task.rows, task.observed,
        num_samples=settings["samples"], posterior=posterior_of(settings["posterior"], model),
        fit_steps=settings["steps"], anchors=settings["anchors"], moves=settings["moves"], chains=settings["chains"],
        antithetic=settings["antithetic"], weighted=settings["weighted"], resume=before, progress=progress,
    )  # fmt: skip


def _report(options: argparse.Namespace, rescue: Path, task: Task, completion: Completion, model: Model, say: Any) -> int:
    from jaxflows.cli.completed_rows import write_completed
    from jaxflows.cli.completion_table import completion_table

    done = completion.info.done
    for note in completion.notes:
        say(note)
    if not done.any():
        print("jaxflows: interrupted before the first row was done; nothing was written", file=sys.stderr)
        return 130
    say(completion_table(task, completion, model))
    _draw(options.output, task, completion, model)
    kept = [str(options.output)]
    interrupted = not done.all()
    if options.save or options.resume or interrupted:
        write_completed(rescue, task, completion)
        kept.append(str(rescue))
    say(f"wrote {' and '.join(kept)}")
    if not interrupted:
        return 0
    print(
        f"jaxflows: interrupted with {int(done.sum())} of {len(done)} rows done, kept in {rescue}; "
        f"go on with: jaxflows complete --resume {rescue}",
        file=sys.stderr,
    )
    return 130


def _draw(path: Path, task: Task, completion: Completion, model: Model) -> None:
    from jaxflows.cli.input_rows import describe_mask
    from jaxflows.plotting import completion_figure, save_figure

    done = completion.info.done
    finished = completion.chosen(done)
    figure = completion_figure(
        task.rows[done], task.observed[done], finished, groups=task.mask_of[done],
        titles=[describe_mask(mask) for mask in task.settings["masks"]], image_shape=model.image_shape,
    )  # fmt: skip
    save_figure(figure, path)
