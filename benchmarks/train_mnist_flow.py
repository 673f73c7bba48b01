"""Train the shipped MNIST flow, and score it on test digits beside one full Gaussian.

    python -m benchmarks.train_mnist_flow            # what was shipped: 55 minutes on one core
    python -m benchmarks.train_mnist_flow --quick    # about three minutes, nothing shipped

Pixels are divided by 255 and get noise N(0, 0.05^2); there is no logit, so linear measurements of pixels stay linear. A
run that is stopped goes on from its checkpoint when started again. Writes the model and results/train_mnist_flow.json.
"""

from __future__ import annotations

import argparse
import gzip
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.flow_scores import ship_and_score
from benchmarks.results_file import RESULTS
from jaxflows import flows
from jaxflows.log_det.estimators import power_series
from jaxflows.training.fit import fit

MODEL = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "mnist_residual.safetensors"
NOISE = 0.05
HELD_OUT = 256


def mnist_images(folder: Path, part: str) -> np.ndarray:
    """Images (n, 28, 28) uint8 of 'train' or 't10k' from the gzipped IDX file of the distribution."""
    path = folder / f"{part}-images-idx3-ubyte.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror or error}; pass --data-dir or set JAXFLOWS_DATA") from None
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)


def noisy_pixels(key: jax.Array, batch: jax.Array) -> jax.Array:
    """Pixels in [0, 255] to [0, 1] plus N(0, 0.05^2)."""
    return batch / 255.0 + NOISE * jax.random.normal(key, batch.shape)


def pixel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (784,) and covariance (784, 784) of the noisy pixels, the noise's share added in closed form."""
    pixels = images.reshape(len(images), -1) / 255.0
    return pixels.mean(axis=0), np.cov(pixels, rowvar=False) + NOISE**2 * np.eye(pixels.shape[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, score."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_mnist_flow", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/mnist"), help="checkpoints and float32 parameters")
    parser.add_argument("--minutes", type=float, default=55.0, help="of training")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--terms", type=int, default=8, help="of the power series in training")
    parser.add_argument("--test-digits", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MODEL)
    parser.add_argument("--quick", action="store_true", help="one minute of training, 16 test digits, all in --run-dir")
    options = parser.parse_args(arguments)
    results = RESULTS
    if options.quick:
        options.minutes, options.test_digits = 1.0, 16
        options.run_dir = options.run_dir / "quick"
        options.output, results = options.run_dir / "mnist_residual.safetensors", options.run_dir

    train = mnist_images(options.data_dir / "mnist", "train")
    test = mnist_images(options.data_dir / "mnist", "t10k")
    flow = flows.residual(event_shape=(28, 28), blocks=8, hidden=200, activation="clipswish", coeff=0.95)
    params, report = fit(
        jax.random.key(options.seed),
        flow,
        train[HELD_OUT:],
        epochs=100,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        noise=noisy_pixels,
        estimator=power_series(terms=options.terms),
        validation=train[:HELD_OUT],
        validation_estimator=power_series(terms=32),
        validate_every=500,
        checkpoint_dir=options.run_dir / "checkpoints",
        checkpoint_every=500,
        max_seconds=60.0 * options.minutes,
    )

    chosen = np.random.default_rng(options.seed).choice(len(test), options.test_digits, replace=False)
    mean, covariance = pixel_moments(train[HELD_OUT:])
    about = {
        "data": "MNIST, 28x28", "pixel_scale": 255, "noise_std": NOISE, "training_rows": len(train) - HELD_OUT,
        "batch_size": options.batch_size, "learning_rate": options.learning_rate, "terms": options.terms,
        "minutes": options.minutes, "validation_steps": report.validation_steps.tolist(),
        "validation_losses": report.validation_losses.tolist(),
    }  # fmt: skip
    noisy_test = np.asarray(noisy_pixels(jax.random.key(options.seed + 1), test[np.sort(chosen)]))
    ship_and_score(
        "train_mnist_flow", flow, params, report, test=noisy_test, mean=mean, covariance=covariance,
        levels=256, about=about, seeds=[options.seed, options.seed + 1], output=options.output,
        keep=options.run_dir / "mnist_residual_float32.safetensors", directory=results,
    )  # fmt: skip


if __name__ == "__main__":
    main()
