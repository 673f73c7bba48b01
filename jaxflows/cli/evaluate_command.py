"""``jaxflows evaluate``: hide entries of complete rows, complete them by a model, and score that beside a Gaussian."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError
from jaxflows.cli.models import PACKAGED, Model, fit_steps_of, load_model, model_path, posterior_of
from jaxflows.cli.stop_signals import termination_interrupts

if TYPE_CHECKING:
    import numpy as np

    from jaxflows.cli.input_rows import Rows
    from jaxflows.metrics import Gaussian

_EPILOG = """examples:
  jaxflows evaluate test.csv --model my.safetensors --train holes.csv
  jaxflows evaluate test.csv --model my.safetensors --posterior amortised --mask missing:0.5 --mask missing:0.9
  jaxflows evaluate t10k-images-idx3-ubyte.gz --model mnist --rows 0:32 --mask centre:8 --save scores.json

A line for each mask, and one for the Gaussian fitted by expectation maximisation to the rows of --train, holes and all.
RMSE of the mean of the draws and of the draws themselves, which are two things (that of draws is sqrt(2) times larger where
the posterior is exact); CRPS an entry and energy score a row, less is better; the share of hidden entries inside their
central intervals of probability 50 % and 90 %; effective sample size; the bound on log p(observed entries) in nats a row, and
the importance-weighted one, which is tighter (of the Gaussian: log p itself); the share of draws whose constraint was solved.
Draws that were not solved are not scored. With --labels the share of rows whose class the model's classifier finds, from
what was left observed.
"""

_HEAD = (
    "mask", "system", "rows", "RMSE mean", "RMSE sample", "CRPS", "energy", "in 50%", "in 90%", "ESS of {samples}", "bound",
    "weighted bound", "converged", "accuracy",
)  # fmt: skip


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "evaluate",
        help="score a model's completions of complete rows",
        description="Hide entries of complete rows, draw completions of them, and score those against what was hidden.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help=".npz, .npy, .csv, IDX or image: complete rows")
    parser.add_argument("--model", required=True, metavar="MODEL", help=f"a saved model, or one of {', '.join(PACKAGED)}")
    parser.add_argument("--key", metavar="NAME", help="which array of an .npz")
    parser.add_argument("--rows", type=types.row_range, default=slice(0, None), metavar="BEGIN:END", help="default: all")
    parser.add_argument("--scale", type=types.positive, help="divide DATA by this (default: 8-bit images by 255)")
    parser.add_argument(
        "--mask", action="append", metavar="MASK", help="what to hide, as in 'complete'; repeat it (default: missing:0.5)"
    )
    parser.add_argument("--train", type=Path, metavar="FILE", help="rows the Gaussian beside it is fitted to; NaN is missing")
    parser.add_argument("--train-key", metavar="NAME", help="which array of FILE")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="a class for each row: score the model's classifier too")
    parser.add_argument("--labels-key", metavar="NAME", help="which array of the labels' .npz")
    parser.add_argument("--samples", type=types.count(2), default=64, metavar="N", help="draws a row (default: 64)")
    parser.add_argument("--seed", type=types.count(0), default=0, metavar="S", help="of masks and draws (default: 0)")
    parser.add_argument("--posterior", type=types.posterior, metavar="NAME", help="as in 'complete' (default: gauss_newton)")
    parser.add_argument("--steps", type=types.count(1), metavar="N", help="of its fit, as in 'complete'")
    parser.add_argument("--save", type=types.named(".json"), metavar="SCORES", help="keep the table's numbers as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Complete, score and print. Returns 0, or 130 when interrupted."""
    from jaxflows.cli.input_rows import check_finite, check_mask, observed_entries, read_data, read_labels

    masks = options.mask or ["missing:0.5"]
    for mask in masks:
        check_mask(mask)
    model_path(options.model)
    if options.save is not None:
        types.check_writable("--save", options.save)
    model = load_model(options.model)
    array = read_data(options.data, options.key, colour=model.in_colour)
    training = None if options.train is None else read_data(options.train, options.train_key, colour=model.in_colour)

    _check_labels(options, model)
    fit = _fitted_to(model, options.scale)
    rows = fit(array, options.data, options.rows)
    check_finite(rows)
    labels = None if options.labels is None else read_labels(options.labels, options.labels_key, rows)
    observed = [observed_entries(mask, rows, model.image_shape or model.flow.event_shape, options.seed) for mask in masks]
    for mask, seen in zip(masks, observed, strict=True):
        if seen.all():
            raise CommandError(f"--mask {mask}: hides nothing of {rows.source}: there is nothing to score")
    posterior = posterior_of("gauss_newton" if options.posterior is None else options.posterior.text, model)
    gaussian = _gaussian(model, training, options, fit)
    with termination_interrupts():
        lines = []
        try:
            for mask, seen in zip(masks, observed, strict=True):
                lines += _scores(options, model, posterior, gaussian, rows, labels, mask, seen)
        except KeyboardInterrupt:
            print("jaxflows: interrupted; nothing was scored", file=sys.stderr)
            return 130
    print(_table(lines, options.samples))
    if options.save is not None:
        _write(options.save, lines)
    return 0


def _check_labels(options: argparse.Namespace, model: Model) -> None:
    if options.labels is None:
        if options.labels_key is not None:
            raise CommandError("--labels-key: only with --labels")
        return
    from jaxflows.conditional.row_classifier import RowClassifier

    trained = model.incomplete
    of_draws = trained is not None and trained.posterior is not None and not isinstance(trained.head, RowClassifier)
    if of_draws and (options.posterior is None or options.posterior.family != "amortised"):
        raise CommandError("--labels: only with --posterior amortised, on whose draws a classifier is trained")
    if trained is None or trained.head is None:
        raise CommandError(
            f"--labels: --model {model.name} has no classifier; 'jaxflows train --incomplete --labels' trains one"
        )


def _fitted_to(model: Model, scale: float | None) -> Callable[[np.ndarray, Path, slice], Rows]:
    """``(array, path, chosen) -> rows`` in the model's shape and scale."""
    from jaxflows.cli.input_rows import fit_rows

    def fit(array: np.ndarray, path: Path, chosen: slice) -> Rows:
        array = array if scale is None else (array / scale).astype("float32")
        return fit_rows(array, path, model.flow.event_shape, chosen, model.pixel_scale, f"--model {model.name}")

    return fit


def _gaussian(
    model: Model, training: np.ndarray | None, options: argparse.Namespace, fit: Callable[[np.ndarray, Path, slice], Rows]
) -> Gaussian | None:
    """The Gaussian of the training file, else of the data that a packaged model was trained on."""
    import numpy as np

    from jaxflows.metrics import fit_gaussian_em

    if training is None:
        return None if model.baseline is None else model.baseline()
    rows = fit(training, options.train, slice(0, None))
    try:
        return fit_gaussian_em(rows.values, ~np.isnan(rows.values))[0]
    except ValueError as error:
        raise CommandError(f"--train {options.train}: {error}") from None


def _scores(
    options: argparse.Namespace, model: Model, posterior: Any, gaussian: Gaussian | None, rows: Rows,
    labels: np.ndarray | None, mask: str, observed: np.ndarray,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line of numbers for the model and one for the Gaussian."""
    import jax
    import numpy as np

    from jaxflows.conditional.complete import complete
    from jaxflows.known_mean import known_mean
    from jaxflows.metrics import completion_scores, gaussian_conditional, observed_log_likelihood
    from jaxflows.training.predict_labels import predict_labels

    k_draw, k_rank = jax.random.key(options.seed), jax.random.key(options.seed + 1)
    name = "gauss_newton" if options.posterior is None else options.posterior.text
    result = complete(
        k_draw, model.flow, model.params, rows.values, observed, num_samples=options.samples, posterior=posterior,
        fit_steps=fit_steps_of(name, options.steps), progress=not options.quiet,
    )  # fmt: skip
    if not result.info.done.all():
        raise KeyboardInterrupt
    draws, scored = result.solved()
    truth = rows.values
    # rows without a single solved draw are not scored, and show in the last column
    seen = observed | ~scored.reshape(-1, *(1 for _ in model.flow.event_shape))
    missing = ~observed.all(axis=tuple(range(1, observed.ndim)))
    line = {
        "mask": mask, "system": name, "rows": int(np.sum(missing)),
        **completion_scores(k_rank, draws, truth, seen)._asdict(), "ess": known_mean(result.info.ess),
        "bound": known_mean(result.info.bound), "weighted_bound": known_mean(result.info.iw_bound),
        "converged": known_mean(result.info.converged[missing]),
    }  # fmt: skip
    if labels is not None and model.incomplete is not None:
        right = predict_labels(model.flow, model.incomplete, result, observed).argmax(axis=1) == labels
        line["accuracy"] = known_mean(right[labels >= 0].astype(float))
    if gaussian is None:
        return [line]
    drawn = gaussian_conditional(gaussian, truth, observed, num_samples=options.samples, seed=options.seed)
    exact = known_mean(observed_log_likelihood(gaussian, truth, observed)[missing])
    other = {
        "mask": mask, "system": "Gaussian", "rows": line["rows"],
        **completion_scores(k_rank, drawn.samples, truth, observed)._asdict(), "bound": exact, "weighted_bound": exact,
    }  # fmt: skip
    return [line, other]


def _table(lines: list[dict[str, Any]], samples: int) -> str:
    from jaxflows.cli.completion_table import aligned, number

    forms = {
        "rmse_mean": ".4f", "rmse_sample": ".4f", "crps": ".4f", "energy": ".4f", "coverage_50": ".1%", "coverage_90": ".1%",
        "ess": ".1f", "bound": ".3f", "weighted_bound": ".3f", "converged": ".1%", "accuracy": ".1%",
    }  # fmt: skip
    head = [name.format(samples=samples) for name in _HEAD]
    cells = [
        [line["mask"], line["system"], str(line["rows"]), *(number(line.get(key, float("nan")), forms[key]) for key in forms)]
        for line in lines
    ]
    return aligned([head, *cells])


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    import json
    import math

    from jaxflows.persistence import atomic_write

    plain = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}
        for line in lines
    ]
    atomic_write(path, (json.dumps(plain, indent=1) + "\n").encode())
