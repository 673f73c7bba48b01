"""Complete MNIST test digits with the shipped flow, after training, beside one Gaussian (IVCNF Sec. 4.2's protocol).

    python -m benchmarks.mnist_completion                    # 100 test digits, Gauss-Newton posterior, 20 draws
    python -m benchmarks.mnist_completion --quick            # 4 digits; written to runs/
    python -m benchmarks.mnist_completion --data-dir ../shared/data --digits 1000    # with a GPU

Pixels in [0, 1], pooled over missing pixels. RMSE of the posterior mean and of single samples are separate columns; means
and the Gaussian's conditional mean are clipped to [0, 1], samples are not. Intervals are those of what the flow models,
the pixel plus N(0, 0.05^2): coverage counts the true pixel with such noise added. Masks: every pixel missing with the
given chance (MCAR), or the centre 8x8 square. A finished mask is kept in the run's folder: a second start goes on from there.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from benchmarks.kept_rows import Row, add_options, measure_and_write, output_dir
from benchmarks.results_file import read_rows
from jaxflows import persistence
from jaxflows.conditional.complete import complete
from jaxflows.data import load_array, load_digits_sample, named_mask
from jaxflows.metrics import gaussian_conditional, interval_coverage, load_mnist_gaussian

NAME = "mnist_completion"
MODEL = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "mnist_residual.safetensors"
NOISE = 0.05
MASKS = ("missing:0.5", "missing:0.6", "missing:0.7", "missing:0.8", "missing:0.9", "centre:8")


def rmse(values: np.ndarray, truth: np.ndarray, hidden: np.ndarray) -> float:
    """Root mean squared error pooled over hidden pixels; leading axes of ``values`` broadcast."""
    squared = (values - truth) ** 2
    return float(np.sqrt(squared[..., hidden].mean()))


def mask_row(name: str, digits: np.ndarray, draws: int, seed: int) -> Row:
    """Complete all digits under one kind of mask and score them."""
    flow, params, _ = persistence.load(MODEL)
    masks = np.stack([named_mask(name, flow.event_shape, seed + i) for i in range(len(digits))])
    hidden = ~masks
    done = complete(jax.random.key(seed), flow, params, digits, masks, num_samples=draws)
    gaussian = load_mnist_gaussian()
    conditional = gaussian_conditional(gaussian, digits, masks).mean
    samples = np.moveaxis(done.samples, 1, 0)
    weights = jax.nn.softmax(np.asarray(done.log_weights), axis=1)
    weighted = np.einsum("rs,rshw->rhw", np.asarray(weights), done.samples)
    noisy = digits + NOISE * np.random.default_rng(seed).standard_normal(digits.shape)
    coverage = {
        f"coverage_{level}": float(interval_coverage(jax.random.key(seed), done.samples, noisy, masks, level / 100))
        for level in (50, 90)
    }
    info = done.info
    return {
        "missing": name, "digits": len(digits), "draws": draws,
        "rmse_mean": rmse(np.clip(done.mean, 0, 1), digits, hidden), "rmse_sample": rmse(samples, digits, hidden),
        "gaussian_rmse": rmse(np.clip(conditional, 0, 1), digits, hidden),
        "rmse_anchor": rmse(np.clip(done.anchor, 0, 1), digits, hidden),
        "rmse_weighted_mean": rmse(np.clip(weighted, 0, 1), digits, hidden), **coverage,
        "ess_fraction": float(info.ess.mean()) / draws, "converged_fraction": float(info.converged.mean()),
        "residual_max": float(info.residual.max()), "bound": float(info.bound.mean()),
        "iw_bound": float(info.iw_bound.mean()), "block_evaluations": float(info.evaluations.mean()),
        "seconds_per_digit": float(np.median(info.seconds)),
    }  # fmt: skip


def mnist_test_digits(folder: Path | None, count: int) -> np.ndarray:
    """(count, 28, 28) in [0, 1]: the first of the whole test set in a folder, or of those that are shipped."""
    digits = load_digits_sample()[0] if folder is None else load_array(folder / "mnist" / "t10k-images-idx3-ubyte.gz")
    if not 1 <= count <= len(digits):
        raise SystemExit(f"expected 1 to {len(digits)} digits; got {count}")
    return (digits[:count] / 255.0).astype(np.float32)


def main() -> None:
    """Score every kind of mask and write results/mnist_completion.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.mnist_completion", description=__doc__.split("\n")[0])
    parser.add_argument("--digits", type=int, default=100, help="how many test digits")
    parser.add_argument("--data-dir", type=Path, help="a folder with all of MNIST; the 300 shipped test digits when left out")
    parser.add_argument("--masks", nargs="+", choices=MASKS, default=MASKS, help="some; the others keep their rows")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    add_options(parser, NAME)
    options = parser.parse_args()
    if options.quick:
        options.digits = 4
    digits = mnist_test_digits(options.data_dir, options.digits)
    tasks = {
        f"{name}_{options.digits}_{options.draws}_{options.seed}": functools.partial(
            mask_row, name, digits, options.draws, options.seed
        )
        for name in options.masks
    }
    earlier = {row["missing"]: row for row in read_rows(NAME, output_dir(options))}

    def arrange(measured: Mapping[str, Row | None]) -> list[Row]:
        rows = earlier | {row["missing"]: row for row in measured.values() if row is not None}
        return [rows[name] for name in MASKS if name in rows]

    measure_and_write(NAME, tasks, options, seeds=[options.seed], arrange=arrange)


if __name__ == "__main__":
    main()
