"""Every family of flows conditioned by the same call: draws solved, evaluations, effective samples.

    python -m benchmarks.families                     # all families, trained first where no trained one is kept
    python -m benchmarks.families --only realnvp      # one family; the others keep their rows
    python -m benchmarks.families --quick             # one family, trained for seconds; written to runs/

Flows of the 8x8 digits of UCI (d = 64, pixels / 16 plus N(0, 0.05^2)), each trained for a few minutes on two cores and kept in
runs/families/. Rows are held-out digits, 8 an observation with 16 draws each: 128 constraint problems from the posterior.
Coupling families have a Householder posterior fitted from the automatic partition, the others the Gauss-Newton posterior,
which needs no fit; ``rows_of_partition`` says how many rows took which. Rows 'same' of coupling families are the paper's
pairing with the prior as q. ``block_evaluations_median`` is over rows, a draw, with the reference's and the fallbacks'.
residual_image is convolutional, and of MNIST (d = 784), trained for 12 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.constraint_solve import digits, noisy
from benchmarks.results_file import RESULTS, Row, read_rows, write_results
from benchmarks.train_mnist_flow import mnist_images
from jaxflows import flows, measurements, persistence
from jaxflows.conditional import posteriors
from jaxflows.conditional.complete import complete
from jaxflows.data import load_digits_sample, named_mask
from jaxflows.flows import Flow
from jaxflows.training.fit import fit

SEED = 0
DRAWS = 16
SHIPPED = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "digits_residual.safetensors"


class Family(NamedTuple):
    """A flow on square images, flattened or not, how long it is trained, and whether it is made of couplings.

    Attributes:
        make: the flow; events of 64 entries are the digits of UCI, of 784 those of MNIST.
        epochs: at most so many passes.
        coupling: whether its posterior is fitted and the paper's pairing measured beside it.
        minutes: at most so long.
    """

    make: Callable[[], Flow]
    epochs: int
    coupling: bool = False
    minutes: float = 10.0


FAMILIES = {
    "residual": Family(lambda: flows.residual(event_shape=(64,), blocks=8, hidden=128), 0),
    "residual_densenet": Family(lambda: flows.residual_densenet(event_shape=(64,), blocks=6), 40),
    "implicit": Family(lambda: flows.implicit(event_shape=(64,), blocks=3, hidden=64), 40),
    "continuous": Family(lambda: flows.continuous(event_shape=(64,), hidden=(128,), legs=6), 60),
    "planar": Family(lambda: flows.planar(event_shape=(64,), blocks=32), 100),
    "radial": Family(lambda: flows.radial(event_shape=(64,), blocks=16), 100),
    "sylvester": Family(lambda: flows.sylvester(event_shape=(64,), blocks=8), 100),
    "realnvp": Family(lambda: flows.realnvp(event_shape=(64,)), 100, coupling=True),
    "nice": Family(lambda: flows.nice(event_shape=(64,)), 100, coupling=True),
    "neural_spline": Family(lambda: flows.neural_spline(event_shape=(64,)), 60, coupling=True),
    "residual_image": Family(
        lambda: flows.residual_image(event_shape=(28, 28, 1), blocks=4, scales=2, channels=(16, 16)), 20, minutes=12.0
    ),
}


def training_images(flow: Flow, data_dir: Path) -> np.ndarray:
    """Square images in [0, 1] of the flow's size, float32."""
    images = digits()[:1500] if flow.size == 64 else mnist_images(data_dir / "mnist", "train") / 255.0
    return images.astype(np.float32)


def held_out(flow: Flow, count: int) -> np.ndarray:
    """(count, *event_shape), noise added as in training."""
    images = digits()[-count:] if flow.size == 64 else load_digits_sample()[0][:count] / 255.0
    return np.asarray(noisy(jax.random.key(SEED), images.reshape(count, *flow.event_shape)), np.float32)


def trained(name: str, folder: Path, data_dir: Path, quick: bool) -> tuple[Flow, Any]:
    """The family's flow: shipped, kept from an earlier run, or trained now with early stopping."""
    if name == "residual":
        return persistence.load(SHIPPED)[:2]
    kept = folder / f"{name}.safetensors"
    if not kept.exists():
        family = FAMILIES[name]
        flow = family.make()
        rows = training_images(flow, data_dir)
        # a step of convolutions on one CPU core takes seconds: small batches, and few rows held out
        batch_size, validation = (128, 0.1) if flow.size == 64 else (32, 256 / len(rows))
        params, _ = fit(
            jax.random.key(SEED), flow, rows.reshape(-1, *flow.event_shape), epochs=1 if quick else family.epochs,
            batch_size=batch_size, noise=noisy, validation=validation, patience=5, ema_decay=0.98,
            max_seconds=60 * family.minutes,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        persistence.save(kept, flow, params)
    return persistence.load(kept)[:2]


def problems(flow: Flow, count: int) -> Iterator[tuple[str, np.ndarray, Any]]:
    """A name, the rows (or measurements of them) and what was observed: as much of the image whatever its side."""
    shape, side, events = flow.event_shape, math.isqrt(flow.size), held_out(flow, count)
    for rate in (0.3, 0.5, 0.9):
        masks = np.stack([named_mask(f"missing:{rate}", shape, seed=seed) for seed in range(count)])
        yield f"mask_{rate:.0%}_missing", events, masks
    centre = named_mask(f"centre:{4 if side == 8 else 8}", (side, side)).reshape(shape)
    yield "mask_centre_missing", events, centre
    for name, made in (("gaussian_25%", measurements.gaussian(shape, flow.size // 4)), ("pooling_2x2", _pooling(shape, side))):
        yield name, np.asarray(jax.vmap(made.measure)(events)), made


def _pooling(shape: tuple[int, ...], side: int) -> measurements.LinearMeasurement:
    half = side // 2
    return measurements.linear(lambda y: y.reshape(half, 2, half, 2).mean((1, 3)), shape)


def rows_of(name: str, flow: Flow, params: Any, count: int, fit_steps: int) -> Iterator[Row]:
    """Every observation, with the automatic partition; for coupling families also the paper's pairing from the prior."""
    settings = [("auto", posteriors.gauss_newton())]
    if FAMILIES[name].coupling:
        settings = [("auto", posteriors.householder()), ("same", posteriors.prior())]
    for observation, rows, observed in problems(flow, count):
        for partition, posterior in settings:
            done = complete(
                jax.random.key(SEED), flow, params, rows, observed, num_samples=DRAWS, posterior=posterior,
                fit_steps=fit_steps, partition=partition,
            )  # fmt: skip
            info = done.info
            used = {str(p): int(n) for p, n in zip(*np.unique(info.partition, return_counts=True), strict=True)}
            yield {
                "family": name, "d": flow.size, "observation": observation, "partition": partition,
                "rows_of_partition": ", ".join(f"{p} {n}" for p, n in used.items()), "posterior": posterior.name,
                "problems": count * DRAWS, "converged_fraction": float(info.converged.mean()),
                "block_evaluations_median": float(np.median(info.evaluations)) / DRAWS,
                "ess_fraction": float(info.ess.mean()) / DRAWS, "bound": float(np.mean(info.bound)),
                "iw_bound": float(np.mean(info.iw_bound)), "overlap_min": float(np.min(info.overlap)),
                "residual_max": float(info.residual.max()), "seconds": float(info.seconds.sum()),
            }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write results/families.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.families", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=sorted(FAMILIES), nargs="+", help="some families; the others keep their rows")
    parser.add_argument("--count", type=int, default=8, help="rows an observation")
    parser.add_argument("--fit-steps", type=int, default=200, help="steps of the fit, for explicit families")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--quick", action="store_true", help="one family, trained for seconds; writes to runs/")
    options = parser.parse_args(arguments)
    folder, output = Path("runs/families"), RESULTS
    if options.quick:
        options.only, options.count, options.fit_steps = ["realnvp"], 2, 20
        folder, output = Path("runs/quick/families"), Path("runs/quick")
    chosen = options.only or list(FAMILIES)
    kept = [row for row in read_rows("families", output) if row["family"] not in chosen]
    measured: list[Row] = []
    for name in chosen:
        for row in rows_of(name, *trained(name, folder, options.data_dir, options.quick), options.count, options.fit_steps):
            print(json.dumps(row), flush=True)
            measured.append(row)
    write_results("families", kept + measured, seeds=[SEED], directory=output)


if __name__ == "__main__":
    main()
