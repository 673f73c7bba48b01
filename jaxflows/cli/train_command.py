"""``jaxflows train``: train a flow on a data file or a folder of images, complete or with holes, and save it."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError
from jaxflows.cli.stop_signals import termination_interrupts

if TYPE_CHECKING:
    import numpy as np

    from jaxflows.cli.input_rows import Rows

_PIXEL_SCALE = 255.0
# `jaxflows.precision.PRECISIONS`, without JAX
_PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
_PIXEL_NOISE = 0.05
_EM_ROUNDS, _EM_EPOCHS = 10, 5
_MOST_BITS = 8
# of the flows of Whang et al. 2021, `jaxflows.flows.PAPER_SIZES`, which is not imported to read the options
_PAPER = ("mnist", "cifar10", "celeba")

_EPILOG = """examples:
  jaxflows train table.csv --output table.safetensors
  jaxflows train train-images-idx3-ubyte.gz --output digits.safetensors --hidden 200 --minutes 55 --checkpoint runs/digits
  jaxflows train train-images-idx3-ubyte.gz --output base.safetensors --paper mnist --minutes 60
  jaxflows train cifar10 --files 'train_*.webp' --tile 32 --output base.safetensors --paper cifar10 --hidden 32 --blocks 4
  jaxflows train faces --output faces.safetensors --flow realnvp --bits 5
  jaxflows train --incomplete holes.csv --output table.safetensors --epochs 200 --metrics run.jsonl
  jaxflows train --incomplete holes.csv --output table.safetensors --labels classes.csv
  jaxflows train --incomplete rows.npz --key rows --mask-key observed --output rows.safetensors --posterior gauss_newton

DATA may be a folder of images of one size. With --bits pixels are reduced to so many bits and their cells filled evenly
(uniform dequantisation), and the loss held out is told in bits per dimension on that scale. --paper takes the sizes, bits,
batch size and learning rate of a base model of Whang et al. 2021, where they are not given.

With --checkpoint a run that was stopped goes on when the same command is given again.

--incomplete trains on rows with holes: NaN entries (empty cells), or what --mask hides. By default flow and inference
network are trained together, and both are in MODEL: 'jaxflows complete --model MODEL --posterior amortised' uses the network,
any other posterior the flow alone. With another --posterior the rows are completed and fitted in turn (expectation
maximisation), and MODEL holds a flow.
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "train",
        help="train a flow on complete rows, or on rows with holes",
        description="Train a flow by maximum likelihood, and save it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help=".npz, .npy, .csv or IDX, or a folder of images")
    parser.add_argument("--output", type=types.named(".safetensors"), required=True, metavar="MODEL", help="the model file")
    parser.add_argument("--key", metavar="NAME", help="which array of an .npz")
    parser.add_argument("--files", metavar="PATTERN", help="which images of a folder (default: all)")
    parser.add_argument("--tile", type=types.count(1), metavar="N", help="the images are sheets of N x N images")
    parser.add_argument("--rows", type=types.row_range, default=slice(0, None), metavar="BEGIN:END", help="default: all")
    parser.add_argument("--scale", type=types.positive, help="divide DATA by this (default: 8-bit images by 255)")
    parser.add_argument(
        "--noise", type=types.non_negative, metavar="STD",
        help="of normal noise added to every batch, after scaling (default: 0.05 for 8-bit images, else 0)",
    )  # fmt: skip
    parser.add_argument("--bits", type=_bits, metavar="N", help="of a pixel, at most 8; in place of --scale and --noise")
    parser.add_argument(
        "--flow",
        choices=("residual", "realnvp"),
        help="realnvp: multi-scale, of images, explicit both ways (default: residual)",
    )
    parser.add_argument("--paper", choices=_PAPER, help="--flow realnvp of the sizes of Whang et al. 2021 for these data")
    parser.add_argument(
        "--blocks",
        type=types.count(1),
        metavar="N",
        help="residual blocks; of realnvp, of each coupling's network (default: 8)",
    )
    parser.add_argument(
        "--hidden", type=types.widths, metavar="WIDTHS",
        help="of each block, as 128 or 128,64 (default: 128); of realnvp, channels (default: 32)",
    )  # fmt: skip
    parser.add_argument("--scales", type=types.count(1), metavar="N", help="of realnvp (default: 3)")
    parser.add_argument(
        "--epochs", type=types.count(1), metavar="N", help=f"default: 50; of each round of --posterior: {_EM_EPOCHS}"
    )
    parser.add_argument("--minutes", type=types.positive, help="stop after this time, the learning rate at 0 by then")
    parser.add_argument("--batch-size", type=types.count(1), metavar="N", help="default: 256")
    parser.add_argument("--learning-rate", type=types.positive, metavar="RATE", help="peak (default: 0.001)")
    parser.add_argument("--validation", type=types.fraction, metavar="SHARE", help="of the rows held out (default: 0.1)")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="keep checkpoints here, and go on from them")
    parser.add_argument(
        "--metrics", type=Path, metavar="PATH",
        help="the numbers of every step as they come: JSON lines in a file *.jsonl, or a folder of TensorBoard event files",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=types.memory, metavar="SIZE",
        help="a ceiling for a training step, as 8GiB, kept by cutting its batch (default: none)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=_PRECISIONS, help="of products outside of solves (default: the device's own)")
    parser.add_argument("--seed", type=types.count(0), default=0, metavar="S", help="default: 0")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    holes = parser.add_argument_group("rows with holes")
    holes.add_argument("--incomplete", action="store_true", help="DATA has holes")
    holes.add_argument("--mask", metavar="MASK", help="a file or a name as in 'complete'; left out: NaN entries are missing")
    holes.add_argument("--mask-key", metavar="NAME", help="which array of the mask's .npz, or of DATA without --mask")
    holes.add_argument(
        "--labels", type=Path, metavar="FILE",
        help="a class for each row, from 0, or nothing where unknown: train a classifier on the latents beside the rest",
    )  # fmt: skip
    holes.add_argument("--labels-key", metavar="NAME", help="which array of the labels' .npz")
    holes.add_argument(
        "--posterior", type=types.posterior, metavar="NAME",
        help="amortised (default), or the posterior that completes the rows in expectation maximisation",
    )  # fmt: skip
    holes.add_argument(
        "--rounds", type=types.count(1), metavar="N", help=f"of expectation maximisation (default: {_EM_ROUNDS})"
    )
    parser.set_defaults(run=run)


def _bits(text: str) -> int:
    bits = types.count(1)(text)
    if bits > _MOST_BITS:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_BITS} bits; got {text!r}")
    return bits


def run(options: argparse.Namespace) -> int:
    """Train and save. Returns 0, or 130 when interrupted."""
    from jaxflows.cli.input_rows import check_finite, fit_rows, read_data, read_labels

    _check(options)
    _fill_in(options)
    array = read_data(options.data, options.key, files=options.files or "*", tile=options.tile)
    if array.ndim < 2:
        raise CommandError(f"{options.data}: expected rows of events; got shape {array.shape}")
    eight_bit = array.dtype.name == "uint8"
    if options.bits is not None and not eight_bit:
        raise CommandError(f"--bits {options.bits}: expected 8-bit images; got numbers of type {array.dtype}")
    if options.flow == "realnvp":
        if array.ndim not in (3, 4):
            raise CommandError(f"--flow realnvp: expected images (n, height, width) or with channels; got shape {array.shape}")
        array = array[..., None] if array.ndim == 3 else array
    scale = (_PIXEL_SCALE if eight_bit else 1.0) if options.scale is None else options.scale
    divisor = _PIXEL_SCALE
    if options.bits is not None:
        # of 8 bits as of fewer the cells fill [0, 1)
        array, scale, divisor = array >> (_MOST_BITS - options.bits), 2.0**_MOST_BITS, 2.0**options.bits
        options.noise = 0.0
    if options.noise is None:
        options.noise = _PIXEL_NOISE if eight_bit and not _by_rounds(options) else 0.0
    if options.scale is not None:
        array = (array / options.scale).astype("float32")
    rows = fit_rows(array, options.data, array.shape[1:], options.rows, divisor, "its rows")
    labels = None if options.labels is None else read_labels(options.labels, options.labels_key, rows)
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


def _by_rounds(options: argparse.Namespace) -> bool:
    return options.posterior is not None and options.posterior.family != "amortised"


def _check(options: argparse.Namespace) -> None:
    """Everything that can be checked without JAX and without the data."""
    from jaxflows.cli.input_rows import check_mask

    types.check_writable("--output", options.output)
    if options.checkpoint is not None and options.checkpoint.exists() and not options.checkpoint.is_dir():
        raise CommandError(f"--checkpoint {options.checkpoint}: expected a folder; it is a file")
    if options.metrics is not None:
        if options.metrics.suffix == ".jsonl":
            types.check_writable("--metrics", options.metrics)
        elif options.metrics.exists() and not options.metrics.is_dir():
            raise CommandError(f"--metrics {options.metrics}: expected a file named *.jsonl, or a folder; it is another file")
    for name in ("mask", "mask_key", "labels", "labels_key", "posterior", "rounds"):
        if not options.incomplete and getattr(options, name) is not None:
            raise CommandError(f"--{name.replace('_', '-')}: only with --incomplete")
    if options.rounds is not None and not _by_rounds(options):
        raise CommandError("--rounds: only with a --posterior that completes the rows")
    for name in ("noise", "minutes", "validation", "memory", "precision", "labels"):
        if _by_rounds(options) and getattr(options, name):
            raise CommandError(f"--{name}: not with --posterior {options.posterior.text}, which trains by rounds")
    if options.labels_key is not None and options.labels is None:
        raise CommandError("--labels-key: only with --labels")
    if options.mask is not None:
        check_mask(options.mask)
    if options.paper is not None and options.flow == "residual":
        raise CommandError(f"--paper {options.paper}: only with --flow realnvp, which it implies")
    realnvp = options.flow == "realnvp" or options.paper is not None
    if realnvp and options.incomplete:
        raise CommandError("--flow realnvp: not with --incomplete, which trains residual flows")
    if options.scales is not None and not realnvp:
        raise CommandError("--scales: only with --flow realnvp")
    if realnvp and options.hidden is not None and len(options.hidden) > 1:
        raise CommandError("--hidden: expected one number of channels with --flow realnvp")
    bits = options.bits is not None or options.paper is not None
    for name in ("scale", "noise", "incomplete"):
        if bits and getattr(options, name):
            raise CommandError(f"--{name}: not with --bits, which says how pixels are scaled and spread")
    for name in ("files", "tile"):
        if getattr(options, name) is not None and not options.data.is_dir():
            raise CommandError(f"--{name}: expected a folder of images; got {options.data}")


def _fill_in(options: argparse.Namespace) -> None:
    """The options that were not given: those of the paper, or the defaults."""
    given: dict[str, Any] = {"batch_size": 256, "learning_rate": 1e-3, "flow": "residual", "blocks": 8}
    given |= {"hidden": (128,)} if options.flow != "realnvp" else {"hidden": (32,), "scales": 3}
    if options.paper is not None:
        from jaxflows.flows import PAPER_SIZES

        sizes = PAPER_SIZES[options.paper]
        given = {"bits": sizes.bits, "batch_size": sizes.batch_size, "learning_rate": sizes.learning_rate, "flow": "realnvp"}
        given |= sizes.base | {"hidden": (sizes.base["hidden"],)}
    for name, value in given.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


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
        sizes = {"scales": options.scales, "blocks": options.blocks, "hidden": options.hidden[0]}
        try:
            flow = flows.realnvp_image(event_shape=event_shape, **sizes)
        except ValueError as error:
            raise CommandError(f"--scales {options.scales}: cannot divide images of {options.data}: {error}") from None
    metadata = {
        "data": options.data.name, "training_rows": len(rows.values), **scaling, "noise_std": options.noise,
        "batch_size": options.batch_size, "learning_rate": options.learning_rate, "seed": options.seed,
        **({} if options.bits is None else {"bits": options.bits}),
    }  # fmt: skip
    try:
        if observed is None:
            summary = _fit_complete(options, flow, rows.values, metadata)
        elif _by_rounds(options):
            summary = _fit_by_rounds(options, flow, rows.values, observed, metadata)
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
    """The arguments that `fit` and `fit_incomplete` share."""
    import jax

    std, cell = options.noise, None if options.bits is None else 2.0**-options.bits

    def add_noise(key: jax.Array, batch: jax.Array) -> jax.Array:
        if cell is not None:
            return batch + cell * jax.random.uniform(key, batch.shape, batch.dtype)
        return batch + std * jax.random.normal(key, batch.shape, batch.dtype)

    return {
        "epochs": options.epochs or 50, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
        "noise": add_noise if std or cell else None, "validation": 0.1 if options.validation is None else options.validation,
        "checkpoint_dir": options.checkpoint, "max_seconds": None if options.minutes is None else 60 * options.minutes,
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
    model, report = fit_incomplete(jax.random.key(options.seed), flow, values, observed, labels=labels, **settings)
    metadata = metadata | {
        "labelled_rows": report.labelled_rows,
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


def _fit_by_rounds(
    options: argparse.Namespace, flow: Any, values: np.ndarray, observed: np.ndarray, metadata: dict[str, Any]
) -> str:
    import jax

    from jaxflows.cli.models import named_posterior
    from jaxflows.persistence import save
    from jaxflows.training.monte_carlo_em import fit_by_em

    rounds, epochs = options.rounds or _EM_ROUNDS, options.epochs or _EM_EPOCHS
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
