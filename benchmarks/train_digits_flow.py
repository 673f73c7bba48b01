"""Train the shipped 64-dimensional digits flow, and deeper ones for the benchmarks that vary depth.

    python -m benchmarks.train_digits_flow                       # what was shipped
    python -m benchmarks.train_digits_flow --depths 16 32 64     # deeper flows too, into --run-dir
    python -m benchmarks.train_digits_flow --quick               # a few steps, nothing shipped

scikit-learn's 8x8 digits, values 0 to 16 divided by 16, noise N(0, 0.05^2). Steps are counted, not timed, so that a CPU
repeats the training bit for bit. Writes the model and results/train_digits_flow.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.flow_scores import ship_and_score
from benchmarks.results_file import RESULTS
from jaxflows import flows, persistence
from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.log_det.estimators import power_series
from jaxflows.training.fit import FitReport, fit

MODEL = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "digits_residual.safetensors"
NOISE = 0.05
TEST_ROWS = 297


class Digits(NamedTuple):
    """Rows (n, 64) in 0..16, split once and for all."""

    train: np.ndarray
    test: np.ndarray


def load_digits_rows() -> Digits:
    """scikit-learn's 1,797 digits, shuffled; the last 297 are for tests."""
    from sklearn.datasets import load_digits

    rows = load_digits().data.astype(np.float32)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    return Digits(rows[:-TEST_ROWS], rows[-TEST_ROWS:])


def noisy_values(key: jax.Array, batch: jax.Array) -> jax.Array:
    """Values in [0, 16] to [0, 1] plus N(0, 0.05^2)."""
    return batch / 16.0 + NOISE * jax.random.normal(key, batch.shape)


def train_digits(
    depth: int, *, hidden: int, epochs: int, seed: int = 0, terms: int = 8, progress: bool = True
) -> tuple[Flow, Params, FitReport]:
    """A dense residual flow of ``depth`` blocks on the digits, Lipschitz 0.95, the best of its validations.

    Args:
        depth: residual blocks.
        hidden: width of each.
        epochs: passes over 1,350 rows, the other 150 being held out; 21 steps each.
        seed: of everything random.
        terms: of the power series.
        progress: show a bar.
    """
    flow = flows.residual(event_shape=(64,), blocks=depth, hidden=hidden, activation="clipswish", coeff=0.95)
    params, report = fit(
        jax.random.key(seed), flow, load_digits_rows().train, epochs=epochs, batch_size=64, learning_rate=2e-3,
        noise=noisy_values, estimator=power_series(terms=terms), validation=0.1,
        validation_estimator=power_series(terms=32), validate_every=63, patience=20, ema_decay=0.99, progress=progress,
    )  # fmt: skip
    return flow, params, report


def trained_digits(depth: int, folder: Path, *, hidden: int = 64, epochs: int = 20) -> tuple[Flow, Params]:
    """The flow of this depth from ``folder``, trained and saved there on first use."""
    path = folder / f"digits_{depth}_{hidden}_{epochs}.safetensors"
    if not path.exists():
        flow, params, report = train_digits(depth, hidden=hidden, epochs=epochs)
        folder.mkdir(parents=True, exist_ok=True)
        persistence.save(path, flow, params, metadata={"validation_loss": float(report.validation_losses.min())})
    flow, params, _ = persistence.load(path)
    return flow, params


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, score."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_digits_flow", description=__doc__.split("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/digits"), help="float32 parameters, deeper flows")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depths", type=int, nargs="*", default=[], help="deeper flows to train as well")
    parser.add_argument("--output", type=Path, default=MODEL)
    parser.add_argument("--quick", action="store_true", help="three epochs, all in --run-dir")
    options = parser.parse_args(arguments)
    results = RESULTS
    if options.quick:
        options.epochs, options.run_dir = 3, options.run_dir / "quick"
        options.output, results = options.run_dir / "digits_residual.safetensors", options.run_dir

    flow, params, report = train_digits(8, hidden=options.hidden, epochs=options.epochs, seed=options.seed)
    digits = load_digits_rows()
    scaled = digits.train.astype(np.float64) / 16.0
    about = {
        "data": "scikit-learn digits, 8x8 flattened", "pixel_scale": 16, "noise_std": NOISE, "training_rows": 1350,
        "epochs": options.epochs, "validation_steps": report.validation_steps.tolist(),
        "validation_losses": report.validation_losses.tolist(),
    }  # fmt: skip
    ship_and_score(
        "train_digits_flow", flow, params, report,
        test=np.asarray(noisy_values(jax.random.key(options.seed + 1), digits.test)), mean=scaled.mean(axis=0),
        covariance=np.cov(scaled, rowvar=False) + NOISE**2 * np.eye(64), levels=16, about=about,
        seeds=[options.seed, options.seed + 1], output=options.output,
        keep=options.run_dir / "digits_residual_float32.safetensors", directory=results,
    )  # fmt: skip
    for depth in options.depths:
        trained_digits(depth, options.run_dir)


if __name__ == "__main__":
    main()
