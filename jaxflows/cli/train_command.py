"""``jaxflows train``: train a residual flow on a data file and save it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError
from jaxflows.cli.stop_signals import termination_interrupts

if TYPE_CHECKING:
    import numpy as np

_PIXEL_SCALE = 255.0
_PIXEL_NOISE = 0.05

_EPILOG = """examples:
  jaxflows train table.csv --output table.safetensors
  jaxflows train train-images-idx3-ubyte.gz --output digits.safetensors --hidden 200 --minutes 55 --checkpoint runs/digits

With --checkpoint a run that was stopped goes on when the same command is given again.
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "train",
        help="train a flow on complete rows",
        description="Train a residual flow on complete rows by maximum likelihood, and save it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help=".npz, .npy, .csv or IDX: complete rows")
    parser.add_argument("--output", type=types.named(".safetensors"), required=True, metavar="MODEL", help="the model file")
    parser.add_argument("--key", metavar="NAME", help="which array of an .npz")
    parser.add_argument("--rows", type=types.row_range, default=slice(0, None), metavar="BEGIN:END", help="default: all")
    parser.add_argument("--scale", type=types.positive, help="divide DATA by this (default: 8-bit images by 255)")
    parser.add_argument(
        "--noise", type=types.non_negative, metavar="STD",
        help="of normal noise added to every batch, after scaling (default: 0.05 for 8-bit images, else 0)",
    )  # fmt: skip
    parser.add_argument("--blocks", type=types.count(1), default=8, metavar="N", help="residual blocks (default: 8)")
    parser.add_argument(
        "--hidden", type=types.widths, default=(128,), metavar="WIDTHS", help="of each block, as 128 or 128,64 (default: 128)"
    )
    parser.add_argument("--epochs", type=types.count(1), default=50, metavar="N", help="default: 50")
    parser.add_argument("--minutes", type=types.positive, help="stop after this time, the learning rate at 0 by then")
    parser.add_argument("--batch-size", type=types.count(1), default=256, metavar="N", help="default: 256")
    parser.add_argument("--learning-rate", type=types.positive, default=1e-3, metavar="RATE", help="peak (default: 0.001)")
    parser.add_argument(
        "--validation", type=types.fraction, default=0.1, metavar="SHARE", help="of the rows held out (default: 0.1)"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="keep checkpoints here, and go on from them")
    parser.add_argument("--seed", type=types.count(0), default=0, metavar="S", help="default: 0")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train and save. Returns 0, or 130 when interrupted."""
    from jaxflows.cli.input_rows import check_finite, fit_rows, read_data

    types.check_writable("--output", options.output)
    if options.checkpoint is not None and options.checkpoint.exists() and not options.checkpoint.is_dir():
        raise CommandError(f"--checkpoint {options.checkpoint}: expected a folder; it is a file")
    array = read_data(options.data, options.key)
    if array.ndim < 2:
        raise CommandError(f"{options.data}: expected rows of events; got shape {array.shape}")
    eight_bit = array.dtype.name == "uint8"
    scale = (_PIXEL_SCALE if eight_bit else 1.0) if options.scale is None else options.scale
    if options.noise is None:
        options.noise = _PIXEL_NOISE if eight_bit else 0.0
    if options.scale is not None:
        array = (array / options.scale).astype("float32")
    rows = fit_rows(array, options.data, array.shape[1:], options.rows, _PIXEL_SCALE, "its rows")
    check_finite(rows)
    if not options.quiet:
        for note in rows.notes:
            print(note)
    with termination_interrupts():
        try:
            return _train(options, rows.values, {"scale": scale} | ({"pixel_scale": scale} if eight_bit else {}))
        except KeyboardInterrupt:
            how = "give the same command to go on" if options.checkpoint else "nothing kept; --checkpoint keeps a run"
            print(f"jaxflows: interrupted; {how}", file=sys.stderr)
            return 130


def _train(options: argparse.Namespace, values: np.ndarray, scaling: dict[str, float]) -> int:
    import jax

    from jaxflows import flows
    from jaxflows.persistence import save
    from jaxflows.training.fit import fit

    flow = flows.residual(event_shape=values.shape[1:], blocks=options.blocks, hidden=options.hidden)
    std = options.noise

    def add_noise(key: jax.Array, batch: jax.Array) -> jax.Array:
        return batch + std * jax.random.normal(key, batch.shape, batch.dtype)

    try:
        params, report = fit(
            jax.random.key(options.seed), flow, values, epochs=options.epochs, batch_size=options.batch_size,
            learning_rate=options.learning_rate, noise=add_noise if std else None, validation=options.validation,
            checkpoint_dir=options.checkpoint, max_seconds=None if options.minutes is None else 60 * options.minutes,
            progress=not options.quiet,
        )  # fmt: skip
    except FloatingPointError as error:
        raise CommandError(f"{options.data}: {error}") from None
    except ValueError as error:
        # arguments and data were checked above: what is left is a checkpoint of another run
        if options.checkpoint is None:
            raise
        raise CommandError(f"--checkpoint {options.checkpoint}: {error}") from None
    metadata = {
        "data": options.data.name, "training_rows": len(values), **scaling, "noise_std": std,
        "epochs": options.epochs, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
        "seed": options.seed, "steps": report.steps, "seconds": report.seconds, "stopped": report.stopped,
        "validation_losses": report.validation_losses.tolist(),
    }  # fmt: skip
    save(options.output, flow, params, metadata=metadata)
    if not options.quiet:
        held_out = report.validation_losses[-1:]
        loss = f"{held_out[0]:.4f} nats per dimension held out" if held_out.size else "no rows held out"
        print(f"{report.steps} steps in {report.seconds:.0f} s ({report.stopped}); {loss}; wrote {options.output}")
    return 0
