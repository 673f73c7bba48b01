"""``jaxflows train``: train a flow on a data file or a folder of images, complete or with holes, and save it."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from jaxflows.cli.errors import CommandError
from jaxflows.cli.stop_signals import termination_interrupts
from jaxflows.cli.train_options import (
    EM_EPOCHS,
    EM_ROUNDS,
    EPILOG,
    IMAGE_FLOWS,
    MOST_BITS,
    add_options,
    by_rounds,
    check_options,
    fill_in,
)

if TYPE_CHECKING:
    import numpy as np

    from jaxflows.cli.input_rows import Rows

_PIXEL_SCALE = 255.0
_PIXEL_NOISE = 0.05


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "train",
        help="train a flow on complete rows, or on rows with holes",
        description="Train a flow by maximum likelihood, and save it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train and save. Returns 0, or 130 when interrupted."""
    from jaxflows.cli.input_rows import check_finite, fit_rows, read_data, read_labels

    check_options(options)
    fill_in(options)
    array = read_data(options.data, options.key, files=options.files or "*", tile=options.tile)
    if array.ndim < 2:
        raise CommandError(f"{options.data}: expected rows of events; got shape {array.shape}")
    eight_bit = array.dtype.name == "uint8"
    if options.bits is not None and not eight_bit:
        raise CommandError(f"--bits {options.bits}: expected 8-bit images; got numbers of type {array.dtype}")
    if options.flow in IMAGE_FLOWS:
        if array.ndim not in (3, 4):
            expected = "expected images (n, height, width) or with channels"
            raise CommandError(f"--flow {options.flow}: {expected}; got shape {array.shape}")
        array = array[..., None] if array.ndim == 3 else array
    scale = (_PIXEL_SCALE if eight_bit else 1.0) if options.scale is None else options.scale
    divisor = _PIXEL_SCALE
    if options.bits is not None:
        # of 8 bits as of fewer the cells fill [0, 1)
        array, scale, divisor = array >> (MOST_BITS - options.bits), 2.0**MOST_BITS, 2.0**options.bits
        options.noise = 0.0
    if options.noise is None:
        options.noise = _PIXEL_NOISE if eight_bit and not by_rounds(options) else 0.0
    if options.scale is not None:
        array = (array / options.scale).astype("float32")
    rows = fit_rows(array, options.data, array.shape[1:], options.rows, divisor, "its rows")
    labels = None if options.labels is None else read_labels(options.labels, options.labels_key, rows)
    if labels is not None and options.head_reads == "observed" and len(set(labels[labels >= 0].tolist())) < 2:
        raise CommandError(f"--labels {options.labels}: expected two classes at least for --head-reads observed; got fewer")
    notes, observed = list(rows.notes), None
    if options.bits is not None:
        notes = [f"{rows.source}: pixels of {options.bits} bits, spread evenly over their cells of [0, 1]"]
    if options.incomplete:
        observed = _observed(options, rows)
        if observed.all():
            notes.append(f"{rows.source}: nothing is missing")
    else:
        check_finite(rows)
    if not options.quiet:
        for note in notes:
            print(note)
    with termination_interrupts():
        try:
            return _train(options, rows, observed, labels, {"scale": scale} | ({"pixel_scale": scale} if eight_bit else {}))
        except KeyboardInterrupt:
            how = "give the same command to go on" if options.checkpoint else "nothing kept; --checkpoint keeps a run"
            print(f"jaxflows: interrupted; {how}", file=sys.stderr)
            return 130


def _observed(options: argparse.Namespace, rows: Rows) -> np.ndarray:
    from jaxflows.cli.input_rows import NAN_MASK, observed_entries

    mask, option = options.mask, "--mask"
    if mask is None and options.mask_key is not None:
        mask, option = str(options.data), "--mask-key"
    shape = rows.values.shape[1:]
    return observed_entries(mask or NAN_MASK, rows, shape, options.seed, key=options.mask_key, option=option)


def _train(
    options: argparse.Namespace, rows: Rows, observed: np.ndarray | None, labels: np.ndarray | None, scaling: dict[str, float]
) -> int:
    from jaxflows import flows
    from jaxflows.memory import MemoryLimitError
    from jaxflows.training.checkpoint import ForeignCheckpointError

    event_shape = rows.values.shape[1:]
    if options.flow == "residual":
        flow = flows.residual(event_shape=event_shape, blocks=options.blocks, hidden=options.hidden)
    else:
        sizes = {"blocks": options.blocks, "hidden": options.hidden[0]}
        named = "--flow whitened" if options.scales is None else f"--scales {options.scales}"
        try:
            if options.scales is None:
                # of rows with holes second moments are known first, and training begins there
                whitening = "full" if options.incomplete else "cosine"
                more = {"dense": options.dense or 0, "marginals": options.marginals or 0}
                flow = flows.whitened_image(event_shape=event_shape, whitening=whitening, **more, **sizes)
            else:
                flow = flows.realnvp_image(event_shape=event_shape, scales=options.scales, **sizes)
        except ValueError as error:
            raise CommandError(f"{named}: cannot divide images of {options.data}: {error}") from None
    metadata = {
        "data": options.data.name, "training_rows": len(rows.values), **scaling, "noise_std": options.noise,
        "batch_size": options.batch_size, "learning_rate": options.learning_rate, "seed": options.seed,
        **({} if options.bits is None else {"bits": options.bits}),
    }  # fmt: skip
    try:
        if observed is None:
            summary = _fit_complete(options, flow, rows.values, metadata)
        elif by_rounds(options):
            summary = _fitby_rounds(options, flow, rows.values, observed, metadata)
        elif options.flow in IMAGE_FLOWS:
            summary = _fit_by_moves(options, flow, rows.values, observed, labels, metadata)
        else:
            summary = _fit_jointly(options, flow, rows.values, observed, labels, metadata)
    except FloatingPointError as error:
        raise CommandError(f"{options.data}: {error}") from None
    except MemoryLimitError as error:
        raise CommandError(f"--memory {options.memory}: {error}") from None
    except ForeignCheckpointError as error:
        raise CommandError(f"--checkpoint {options.checkpoint}: {error}") from None
    except ValueError as error:
        # the other arguments were checked: what is left is a column that rows with holes say nothing of
        if observed is None:
            raise
        raise CommandError(f"{options.data}: {error}") from None
    except OSError as error:
        raise CommandError(str(error)) from None
    except ImportError as error:
        if options.metrics is None:
            raise
        raise CommandError(f"--metrics {options.metrics}: {error}") from None
    if not options.quiet:
        print(f"{summary}; wrote {options.output}")
    return 0


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that `fit`, `fit_incomplete` and, but for the rows held out, `fit_by_moves` share."""
    import jax

    std, cell = options.noise, None if options.bits is None else 2.0**-options.bits

    def add_noise(key: jax.Array, batch: jax.Array) -> jax.Array:
        if cell is not None:
            return batch + cell * jax.random.uniform(key, batch.shape, batch.dtype)
        return batch + std * jax.random.normal(key, batch.shape, batch.dtype)

    return {
        "epochs": options.epochs or 50, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
        "noise": add_noise if std or cell else None, "validation": 0.1 if options.validation is None else options.validation,
        "checkpoint_dir": options.checkpoint, "checkpoint_every": options.checkpoint_every,
        "max_seconds": None if options.minutes is None else 60 * options.minutes,
        "progress": not options.quiet, "metrics": _metrics(options), "memory_limit": options.memory,
        "precision": options.precision,
    }  # fmt: skip


def _metrics(options: argparse.Namespace) -> Any:
    from jaxflows.training.metrics_writers import json_lines, tensorboard

    if options.metrics is None:
        return None
    if options.metrics.suffix != ".jsonl":
        return tensorboard(options.metrics)
    try:
        return json_lines(options.metrics)
    except ValueError as error:
        raise CommandError(f"--metrics {options.metrics}: {error}") from None


def _ran(report: Any) -> dict[str, Any]:
    """What a model file says of the run that made it."""
    return {
        "steps": report.steps, "seconds": report.seconds, "stopped": report.stopped,
        "validation_losses": report.validation_losses.tolist(),
    }  # fmt: skip


def _held_out(report: Any, what: str) -> str:
    losses = report.validation_losses[-1:]
    loss = f"{losses[0]:.4f} nats per dimension held out{what}" if losses.size else "no rows held out"
    return f"{report.steps} steps in {report.seconds:.0f} s ({report.stopped}); {loss}"


def _fit_complete(options: argparse.Namespace, flow: Any, values: np.ndarray, metadata: dict[str, Any]) -> str:
    import jax

    from jaxflows.persistence import save
    from jaxflows.training.fit import fit

    settings = _settings(options)
    params, report = fit(jax.random.key(options.seed), flow, values, **settings)
    metadata = {**metadata, "epochs": settings["epochs"], **_ran(report)}
    if options.bits is None or not report.validation_losses.size:
        save(options.output, flow, params, metadata=metadata)
        return _held_out(report, "")
    # log p of [0, 1]^d, less the volume of a cell
    bits = float(report.validation_losses[-1]) / math.log(2.0) + options.bits
    save(options.output, flow, params, metadata={**metadata, "bits_per_dimension": bits})
    return f"{_held_out(report, '')}, {bits:.4f} bits per dimension of {options.bits}-bit pixels"


def _fit_jointly(
    options: argparse.Namespace, flow: Any, values: np.ndarray, observed: np.ndarray, labels: np.ndarray | None,
    metadata: dict[str, Any],
) -> str:  # fmt: skip
    import jax

    from jaxflows.persistence import save_incomplete
    from jaxflows.training.fit_incomplete import fit_incomplete

    settings = _settings(options)
    model, report = fit_incomplete(
        jax.random.key(options.seed), flow, values, observed, **_head_options(options, labels), **settings
    )
    model = _with_classifier(options, model, values, observed, labels)
    metadata = metadata | {
        "labelled_rows": _labelled(labels),
        "epochs": settings["epochs"],
        "observed_share": float(observed.mean()),
        **_ran(report.run),
    }
    save_incomplete(options.output, flow, model, metadata=metadata)
    last = report.unconverged[-max(1, len(report.unconverged) // settings["epochs"]) :]
    return (
        f"{_held_out(report.run, ' (a bound)')}; {last.mean():.1%} of the last epoch's draws unsolved; "
        f"{report.empty_rows} rows with nothing observed skipped"
    )


def _head_options(options: argparse.Namespace, labels: np.ndarray | None) -> dict[str, Any]:
    """Of a classifier that is trained beside the flow."""
    if labels is None or options.head_reads == "observed":
        return {}
    return {"labels": labels, "head_hidden": options.head_hidden or ()}


def _labelled(labels: np.ndarray | None) -> int:
    return 0 if labels is None else int((labels >= 0).sum())


def _with_classifier(
    options: argparse.Namespace, model: Any, values: np.ndarray, observed: np.ndarray, labels: np.ndarray | None
) -> Any:
    """The model with a classifier of what was observed, where that was asked for."""
    if options.head_reads != "observed":
        return model
    import jax

    from jaxflows.training.fit_classifier import fit_classifier

    hidden = {} if options.head_hidden is None else {"hidden": options.head_hidden}
    classifier, _ = fit_classifier(
        jax.random.key(options.seed), values, observed, labels, **hidden, progress=not options.quiet,
        max_seconds=None if options.minutes is None else 60 * options.minutes / 4,
        checkpoint_dir=None if options.checkpoint is None else options.checkpoint / "classifier",
    )  # fmt: skip
    return model._replace(head=classifier)


def _fit_by_moves(
    options: argparse.Namespace, flow: Any, values: np.ndarray, observed: np.ndarray, labels: np.ndarray | None,
    metadata: dict[str, Any],
) -> str:  # fmt: skip
    import jax

    from jaxflows.persistence import save, save_incomplete
    from jaxflows.training.fit_by_moves import fit_by_moves

    settings = _settings(options)
    del settings["validation"]
    model, report = fit_by_moves(
        jax.random.key(options.seed), flow, values, observed, **_head_options(options, labels), **settings
    )
    model = _with_classifier(options, model, values, observed, labels)
    metadata = metadata | {
        "labelled_rows": _labelled(labels), "epochs": settings["epochs"], "observed_share": float(observed.mean()),
        **_ran(report.run),
    }  # fmt: skip
    if model.head is None:
        save(options.output, flow, model.params, metadata=metadata)
    else:
        save_incomplete(options.output, flow, model, metadata=metadata)
    last = slice(-max(1, report.run.steps // settings["epochs"]), None)
    return (
        f"{report.run.steps} steps in {report.run.seconds:.0f} s ({report.run.stopped}); in the last epoch "
        f"{report.acceptance[last].mean():.0%} of the moves accepted, {-report.run.losses[last].mean():.4f} nats per dimension "
        f"of completions; {report.empty_rows} rows with nothing observed skipped"
    )


def _fitby_rounds(
    options: argparse.Namespace, flow: Any, values: np.ndarray, observed: np.ndarray, metadata: dict[str, Any]
) -> str:
    import jax

    from jaxflows.cli.models import named_posterior
    from jaxflows.persistence import save
    from jaxflows.training.monte_carlo_em import fit_by_em

    rounds, epochs = options.rounds or EM_ROUNDS, options.epochs or EM_EPOCHS
    params, report = fit_by_em(
        jax.random.key(options.seed), flow, values, observed, rounds=rounds, epochs=epochs,
        posterior=named_posterior(options.posterior.text), batch_size=options.batch_size, learning_rate=options.learning_rate,
        checkpoint_dir=options.checkpoint, progress=not options.quiet, metrics=_metrics(options),
    )  # fmt: skip
    metadata = metadata | {
        "epochs": epochs, "rounds": rounds, "posterior": options.posterior.text, "losses": report.losses.tolist(),
        "observed_share": float(observed.mean()),
    }  # fmt: skip
    save(options.output, flow, params, metadata=metadata)
    bound = f"; bound {report.bound[-1]:.4f} nats per dimension before the last" if report.bound.size else ""
    return f"{rounds} rounds{bound}; {report.empty_rows} rows with nothing observed skipped"
