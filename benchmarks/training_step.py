"""The time of one step of joint training on rows with holes, with its shares for solve, gradient and update.

    python -m benchmarks.training_step            # the paper's size on a GPU, a scaled one on a CPU
    python -m benchmarks.training_step --sizes paper scaled
    python -m benchmarks.training_step --quick    # a tiny flow, into runs/

The paper's size (IVCNF Sec. 4.2.1): 73 convolutions of 128 channels in residual blocks and 4 fully connected residual blocks,
batch 64, on MNIST with half the pixels missing; it takes about 20 seconds a step. Its convolutions are taken as 23 blocks of
three and 2 blocks of two. Steps are timed one after another from a fresh flow: evaluations are those of early training.
The programs of the step and of its parts are compiled side by side: `compile_seconds` is of the three.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.joint_step import joint_step, lowered_step, median_seconds, timed_steps
from benchmarks.results_file import RESULTS, write_results
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.residual import residual_conv, residual_dense
from jaxflows.data import load_digits_sample, mcar
from jaxflows.flows import Flow, flow_of
from jaxflows.memory import peak_bytes

NOISE = 0.05


class Size(NamedTuple):
    """A flow and a batch.

    Attributes:
        side: of the square grey images.
        triples: residual blocks of three convolutions.
        pairs: residual blocks of two.
        channels: inside them.
        dense: fully connected residual blocks.
        hidden: their width.
        batch: rows a step.
    """

    side: int
    triples: int
    pairs: int
    channels: int
    dense: int
    hidden: int
    batch: int

    @property
    def convolutions(self) -> int:
        """How many there are."""
        return 3 * self.triples + 2 * self.pairs


SIZES = {
    "paper": Size(28, 23, 2, 128, 4, 128, 64),
    "scaled": Size(14, 5, 1, 32, 2, 64, 16),
    "tiny": Size(7, 1, 1, 4, 1, 8, 16),
}


def flow_of_size(size: Size) -> Flow:
    """Convolutional residual blocks, then dense ones, on (side, side, 1)."""
    three = residual_conv(channels=(size.channels, size.channels))
    two = residual_conv(channels=(size.channels,), kernels=(3, 3))
    dense = residual_dense(hidden=(size.hidden,))
    body = (scan_chain(three, size.triples), scan_chain(two, size.pairs), scan_chain(dense, size.dense))
    return flow_of((size.side, size.side, 1), chain(actnorm(over="channel"), *body))


def rows_of_size(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Shipped digits, averaged over squares of pixels where the size is smaller, with noise and half their pixels missing."""
    factor = 28 // size.side
    images = load_digits_sample()[0][: size.batch] / 255.0
    small = images.reshape(size.batch, size.side, factor, size.side, factor).mean(axis=(2, 4))[..., None]
    rows = small + NOISE * np.random.default_rng(0).standard_normal(small.shape)
    return rows.astype(np.float32), mcar(size.batch, small.shape[1:], 0.5, seed=0)


def measure(name: str, steps: int) -> dict[str, Any]:
    """One size on the device that JAX takes by itself."""
    size = SIZES[name]
    joint = joint_step(flow_of_size(size), *rows_of_size(size), devices=jax.devices()[:1])
    raw, batch = joint.state.raw, joint.batch
    lowered = lowered_step(joint), joint.solve.lower(raw, batch), joint.gradient.lower(raw, batch)
    began = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        program, solving, gradients = pool.map(lambda one: one.compile(), lowered)
    compile_seconds = time.perf_counter() - began
    print(f"{name}: compiled", flush=True)
    timing = timed_steps(joint, program, steps)
    raw = timing.state.raw
    solve = median_seconds(solving, raw, batch, repeats=max(2, steps // 2))
    gradient = median_seconds(gradients, raw, batch, repeats=max(2, steps // 2))
    step = timing.seconds
    return {
        "size": name, "convolutions": size.convolutions, "channels": size.channels, "dense_blocks": size.dense,
        "batch": size.batch, "dimension": size.side**2, "device": jax.devices()[0].device_kind, "step_seconds": step,
        "solve_share": solve / step, "gradient_share": (gradient - solve) / step, "update_share": 1.0 - gradient / step,
        "evaluations": timing.losses["evaluations"], "unconverged": timing.losses["unconverged"],
        "peak_bytes": peak_bytes(program), "compile_seconds": compile_seconds, "steps": steps,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.training_step", description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), help="default: paper on a GPU, else scaled")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="the tiny size, two steps, into runs/")
    options = parser.parse_args(arguments)
    sizes = options.sizes or (["scaled"] if jax.default_backend() == "cpu" else ["paper", "scaled"])
    if options.quick:
        sizes, options.steps, options.output_dir = ["tiny"], 2, Path("runs/quick")
    rows = []
    for name in sizes:
        rows.append(measure(name, options.steps))
        print(rows[-1], flush=True)
    write_results("training_step", rows, seeds=[0], directory=options.output_dir)


if __name__ == "__main__":
    main()
