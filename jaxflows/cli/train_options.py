"""The options of ``jaxflows train``: what they are, which go together, and what stands for those not given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError

# `jaxflows.precision.PRECISIONS`, without JAX
_PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
EM_ROUNDS, EM_EPOCHS = 10, 5
MOST_BITS = 8
# of the flows of Whang et al. 2021, `jaxflows.flows.PAPER_SIZES`, which is not imported to read the options
_PAPER = ("mnist", "cifar10", "celeba")

# those that take images alone
IMAGE_FLOWS = ("realnvp", "whitened")

EPILOG = """examples:
  jaxflows train table.csv --output table.safetensors
  jaxflows train train-images-idx3-ubyte.gz --output digits.safetensors --hidden 200 --minutes 55 --checkpoint runs/digits
  jaxflows train train-images-idx3-ubyte.gz --output base.safetensors --paper mnist --minutes 60
  jaxflows train cifar10 --files 'train_*.webp' --tile 32 --output base.safetensors --paper cifar10 --hidden 32 --blocks 4
  jaxflows train faces --output faces.safetensors --flow realnvp --bits 5
  jaxflows train faces --output faces.safetensors --flow whitened --epochs 5
  jaxflows train --incomplete holes.csv --output table.safetensors --epochs 200 --metrics run.jsonl
  jaxflows train --incomplete holes.csv --output table.safetensors --labels classes.csv
  jaxflows train --incomplete holes.csv --output table.safetensors --labels classes.csv --head-reads observed
  jaxflows train --incomplete rows.npz --key rows --mask-key observed --output rows.safetensors --posterior gauss_newton
  jaxflows train --incomplete digits.npz --key images --mask-key observed --output digits.safetensors --flow whitened

DATA may be a folder of images of one size. With --bits pixels are reduced to so many bits and their cells filled evenly
(uniform dequantisation), and the loss held out is told in bits per dimension on that scale. --paper takes the sizes, bits,
batch size and learning rate of a base model of Whang et al. 2021, where they are not given.

With --checkpoint a run that was stopped goes on when the same command is given again.

--incomplete trains on rows with holes: NaN entries (empty cells), or what --mask hides. By default flow and inference
network are trained together, and both are in MODEL: 'jaxflows complete --model MODEL --posterior amortised' uses the network,
any other posterior the flow alone. With another --posterior the rows are completed and fitted in turn (expectation
maximisation), and MODEL holds a flow. With --flow whitened or realnvp every row has a completion that moves along with the
flow, and MODEL holds the flow and, with --labels, a classifier.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option to the command's parser."""
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
        choices=("residual", *IMAGE_FLOWS),
        help="of images, explicit both ways: whitened, small and soon good, or realnvp, multi-scale (default: residual)",
    )
    parser.add_argument("--paper", choices=_PAPER, help="--flow realnvp of the sizes of Whang et al. 2021 for these data")
    parser.add_argument(
        "--blocks",
        type=types.count(1),
        metavar="N",
        help="residual blocks (default: 8); of each coupling's network (realnvp: 8, whitened: 1)",
    )
    parser.add_argument(
        "--hidden", type=types.widths, metavar="WIDTHS",
        help="of each block, as 128 or 128,64 (default: 128); of realnvp and whitened, channels (default: 32)",
    )  # fmt: skip
    parser.add_argument("--scales", type=types.count(1), metavar="N", help="of realnvp (default: 3)")
    parser.add_argument(
        "--dense", type=types.count(1), metavar="N", help="of whitened, width of dense couplings (default: none)"
    )
    parser.add_argument(
        "--marginals", type=types.count(2), metavar="N",
        help="of whitened, bins of a spline of grey levels in [0, 1] before the rest, for pixels mostly black or white",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=types.count(1), metavar="N", help=f"default: 50; of each round of --posterior: {EM_EPOCHS}"
    )
    parser.add_argument("--minutes", type=types.positive, help="stop after this time, the learning rate at 0 by then")
    parser.add_argument("--batch-size", type=types.count(1), metavar="N", help="default: 256, of whitened 64")
    parser.add_argument("--learning-rate", type=types.positive, metavar="RATE", help="peak (default: 0.001, of whitened 0.002)")
    parser.add_argument("--validation", type=types.fraction, metavar="SHARE", help="of the rows held out (default: 0.1)")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="keep checkpoints here, and go on from them")
    parser.add_argument(
        "--checkpoint-every", type=types.count(1), metavar="N", help="steps between two checkpoints (default: an epoch)"
    )
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
        help="a class for each row, from 0, or nothing where unknown: train a classifier beside the rest, on the latents",
    )  # fmt: skip
    holes.add_argument("--labels-key", metavar="NAME", help="which array of the labels' .npz")
    holes.add_argument(
        "--head-hidden", type=types.widths, metavar="WIDTHS",
        help="hidden layers of the classifier, 32,64: it then looks at the completed rows",
    )  # fmt: skip
    holes.add_argument(
        "--head-reads", choices=("completions", "observed"),
        help="what the classifier looks at (default: completions); observed: better where little is, trained after the flow "
        "for ten epochs, with --minutes for a quarter as long at most",
    )  # fmt: skip
    holes.add_argument(
        "--posterior", type=types.posterior, metavar="NAME",
        help="amortised (default), or the posterior that completes the rows in expectation maximisation",
    )  # fmt: skip
    holes.add_argument("--rounds", type=types.count(1), metavar="N", help=f"of expectation maximisation (default: {EM_ROUNDS})")


def _bits(text: str) -> int:
    bits = types.count(1)(text)
    if bits > MOST_BITS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_BITS} bits; got {text!r}")
    return bits


def by_rounds(options: argparse.Namespace) -> bool:
    """Whether rows are completed and fitted in turn, by expectation maximisation."""
    return options.posterior is not None and options.posterior.family != "amortised"


def check_options(options: argparse.Namespace) -> None:
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
    for name in ("mask", "mask_key", "labels", "labels_key", "head_hidden", "head_reads", "posterior", "rounds"):
        if not options.incomplete and getattr(options, name) is not None:
            raise CommandError(f"--{name.replace('_', '-')}: only with --incomplete")
    if options.rounds is not None and not by_rounds(options):
        raise CommandError("--rounds: only with a --posterior that completes the rows")
    if options.checkpoint_every is not None and options.checkpoint is None:
        raise CommandError("--checkpoint-every: only with --checkpoint, the folder they are kept in")
    for name in ("noise", "minutes", "validation", "memory", "precision", "labels", "checkpoint_every"):
        if by_rounds(options) and getattr(options, name):
            option = name.replace("_", "-")
            raise CommandError(f"--{option}: not with --posterior {options.posterior.text}, which trains by rounds")
    for name in ("labels_key", "head_hidden", "head_reads"):
        if getattr(options, name) is not None and options.labels is None:
            raise CommandError(f"--{name.replace('_', '-')}: only with --labels")
    if options.mask is not None:
        check_mask(options.mask)
    if options.paper is not None and options.flow not in (None, "realnvp"):
        raise CommandError(f"--paper {options.paper}: only with --flow realnvp, which it implies")
    flow = "realnvp" if options.paper is not None else options.flow
    for name in ("posterior", "validation"):
        if flow in IMAGE_FLOWS and options.incomplete and getattr(options, name) is not None:
            raise CommandError(f"--{name}: not with --flow {flow} and --incomplete, which moves completions and holds none out")
    if options.scales is not None and flow != "realnvp":
        raise CommandError("--scales: only with --flow realnvp")
    for name in ("dense", "marginals"):
        if getattr(options, name) is not None and flow != "whitened":
            raise CommandError(f"--{name}: only with --flow whitened")
    if flow in IMAGE_FLOWS and options.hidden is not None and len(options.hidden) > 1:
        raise CommandError(f"--hidden: expected one number of channels with --flow {flow}")
    bits = options.bits is not None or options.paper is not None
    for name in ("scale", "noise", "incomplete"):
        if bits and getattr(options, name):
            raise CommandError(f"--{name}: not with --bits, which says how pixels are scaled and spread")
    for name in ("files", "tile"):
        if getattr(options, name) is not None and not options.data.is_dir():
            raise CommandError(f"--{name}: expected a folder of images; got {options.data}")


def fill_in(options: argparse.Namespace) -> None:
    """The options that were not given: those of the paper, or the defaults."""
    given: dict[str, Any] = {"batch_size": 256, "learning_rate": 1e-3, "flow": "residual", "blocks": 8, "hidden": (128,)}
    if options.flow == "realnvp":
        given |= {"hidden": (32,), "scales": 3}
    if options.flow == "whitened":
        given |= {"batch_size": 64, "learning_rate": 2e-3, "blocks": 1, "hidden": (32,)}
    if options.paper is not None:
        from jaxflows.flows import PAPER_SIZES

        sizes = PAPER_SIZES[options.paper]
        given = {"bits": sizes.bits, "batch_size": sizes.batch_size, "learning_rate": sizes.learning_rate, "flow": "realnvp"}
        given |= sizes.base | {"hidden": (sizes.base["hidden"],)}
    for name, value in given.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
