"""Train base flows of Whang et al. 2021, scaled to a CPU, on MNIST (8 bits) and CIFAR-10 (5 bits); score them on test images.

    python -m benchmarks.train_base_flows --minutes 60        # the given time each, one after the other
    python -m benchmarks.train_base_flows --only cifar10 --minutes 120 --hidden 32 --blocks 2 --batch-size 64
    python -m benchmarks.train_base_flows --full --minutes 600    # the paper's sizes (Table 3): for a GPU
    python -m benchmarks.train_base_flows --quick             # a few steps of tiny flows, all in --run-dir

Training is `jaxflows train --paper NAME`: multi-scale RealNVP with residual networks, uniform dequantisation, no logit, so that
linear measurements of pixels stay linear. Whatever is not scaled down is the paper's. A run that is stopped goes on from its
checkpoint when the same command is given again. Models stay in --run-dir, as DATA.safetensors, that of
the last run of each: `benchmarks.inverse_problems --model` takes one.

Rows of base_flows.json: data, bits of a pixel, parameters, scales, blocks, hidden, batch_size, steps, seconds, bits_per_dim of
the test images (dequantised once, so a bound), bits_std_error, test_images, published.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results_file import RESULTS, Row, read_rows, write_results
from benchmarks.train_cifar_flow import cifar_images
from jaxflows import persistence
from jaxflows.cli.main import main as jaxflows_command
from jaxflows.cli.train_options import MOST_BITS
from jaxflows.data import load_array
from jaxflows.flows import PAPER_SIZES
from jaxflows.training.evaluate import flow_log_likelihood

NAME = "base_flows"
RUN_DIR = Path("runs/base_flows")


class Sizes(NamedTuple):
    """How much smaller than the paper's a flow is; None for the paper's own.

    Attributes:
        scales: of the flow.
        blocks, hidden: residual blocks and channels of each coupling's network.
        batch_size: of training.
    """

    scales: int | None
    blocks: int | None
    hidden: int | None
    batch_size: int | None


PAPER, QUICK = Sizes(None, None, None, None), Sizes(2, 1, 4, 16)
SCALED = {"mnist": Sizes(3, 1, 24, 32), "cifar10": Sizes(3, 1, 16, 32)}
FILES = {
    "mnist": ("mnist/train-images-idx3-ubyte.gz",),
    "cifar10": ("cifar10", "--files", "train_*.webp", "--tile", "32"),
}
TEST_FILES = {
    "mnist": lambda folder: load_array(folder / "mnist" / "t10k-images-idx3-ubyte.gz"),
    "cifar10": lambda folder: cifar_images(folder / "cifar10", "test"),
}


def model_path(data: str, run_dir: Path) -> Path:
    """Where the last model trained on some data lies."""
    return run_dir / f"{data}.safetensors"


def dequantised(key: jax.Array, images: np.ndarray, bits: int) -> jax.Array:
    """Pixels of 8 bits (n, *event), reduced to so many bits and spread evenly over their cells of [0, 1)."""
    cells = jnp.asarray(images >> (MOST_BITS - bits), jnp.float32)
    return (cells + jax.random.uniform(key, images.shape)) / 2.0**bits


def whole_sizes(data: str, sizes: Sizes) -> dict[str, int]:
    """Every size by name, the paper's where none is given."""
    paper = PAPER_SIZES[data]
    given = {name: value for name, value in sizes._asdict().items() if value is not None}
    return {**paper.base, "batch_size": paper.batch_size, **given}


def train(data: str, sizes: dict[str, int], options: argparse.Namespace) -> None:
    """Train on one data set and save the model; SystemExit with the command's status where that is not 0."""
    label = "_".join([data, *(f"{name}{value}" for name, value in sizes.items()), f"{options.minutes:g}min"])
    path, *more = FILES[data]
    output = model_path(data, options.run_dir)
    output.parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        "train", str(options.data_dir / path), *more, "--paper", data, "--output", str(output), "--epochs", "1000",
        "--minutes", str(options.minutes), "--validation", "0.005", "--seed", str(options.seed),
        "--checkpoint", str(options.run_dir / "checkpoints" / label), "--checkpoint-every", "200",
        *(argument for name, value in sizes.items() for argument in (f"--{name.replace('_', '-')}", str(value))),
        *(["--rows", "0:400"] if options.quick else []),
    ]  # fmt: skip
    print(" ".join(["jaxflows", *arguments]), flush=True)
    status = jaxflows_command(arguments)
    if status:
        raise SystemExit(status)


def scored(data: str, sizes: dict[str, int], options: argparse.Namespace) -> Row:
    """The row of the model of one data set, trained at these sizes, by its file and the test images."""
    flow, params, about = persistence.load(model_path(data, options.run_dir))
    images = TEST_FILES[data](options.data_dir)[: options.test_images].reshape(-1, *flow.event_shape)
    with jax.default_matmul_precision("highest"):
        rows = dequantised(jax.random.key(options.seed + 1), images, about["bits"])
        score = flow_log_likelihood(flow, params, rows, batch_size=32)
    levels = 2 ** about["bits"]
    return {
        "data": data, "bits": about["bits"], "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        **sizes, "steps": about["steps"], "seconds": about["seconds"],
        "bits_per_dim": score.bits(levels), "bits_std_error": score.std_error / np.log(2.0), "test_images": score.rows,
        "published": PAPER_SIZES[data].bits_per_dimension,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, and write a row a data set; data sets not chosen keep theirs."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_base_flows", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--only", nargs="+", choices=tuple(FILES), default=tuple(FILES), help="the others keep their rows")
    parser.add_argument("--minutes", type=float, help="of training each, compilation included (default: 60)")
    parser.add_argument("--full", action="store_true", help="the paper's sizes: for a GPU")
    for name in Sizes._fields:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help="in place of the scaled size")
    parser.add_argument("--test-images", type=int, metavar="N", help="the first so many (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR, help="models and checkpoints")
    parser.add_argument("--output-dir", type=Path, help="of the results file (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="seconds of training of tiny flows, all in --run-dir")
    options = parser.parse_args(arguments)
    if options.full and options.quick:
        parser.error("--full and --quick: give one of them")
    if options.quick:
        options.run_dir = options.run_dir / "quick"
    for name, usual, quick in (("minutes", 60.0, 0.1), ("test_images", 1000, 20)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    if options.test_images < 2 or not options.minutes > 0:
        parser.error(f"expected at least 2 test images and minutes > 0; got {options.test_images} and {options.minutes}")
    directory = options.output_dir or (options.run_dir if options.quick else RESULTS)
    given = {name: getattr(options, name) for name in Sizes._fields if getattr(options, name) is not None}
    for data in options.only:
        scaled = PAPER if options.full else QUICK if options.quick else SCALED[data]
        sizes = whole_sizes(data, scaled._replace(**given))
        train(data, sizes, options)
        rows = {row["data"]: row for row in read_rows(NAME, directory)} | {data: scored(data, sizes, options)}
        found = [rows[name] for name in FILES if name in rows]
        write_results(NAME, found, seeds=[options.seed, options.seed + 1], directory=directory)


if __name__ == "__main__":
    main()
