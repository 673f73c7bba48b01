"""Train a convolutional residual flow on CIFAR-10, and score it on test images beside one full Gaussian.

    python -m benchmarks.train_cifar_flow --minutes 2.2       # an H100; everything but training takes under 40 seconds there
    python -m benchmarks.train_cifar_flow --minutes 8 --blocks 8 --dense 128 --batch-size 64        # two cores
    python -m benchmarks.train_cifar_flow --quick             # a flow of 3 blocks for seconds, all in --run-dir

Pixels are divided by 255 and get noise N(0, 0.02^2), half of the images are mirrored; there is no logit, so linear measurements
of pixels stay linear. Sheets of training images that are not there are done without. A run that is stopped goes on from its
checkpoint when started again. Writes the model to --output and train_cifar_flow.json to --output-dir.

Convolutions are for a GPU. With --dense N the flow is of dense blocks of N hidden units and starts as the principal components
of that Gaussian (`jaxflows.gaussian_start`).

Log-densities are estimates, one power series a row: their truncation is certified, and the noise of their probes is in the
standard error over rows. Rows as of train_mnist_flow, with truncation_bound (nats a dimension), blocks and channels.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.flow_scores import ship_and_score
from benchmarks.results_file import RESULTS
from jaxflows import flows, gaussian_start
from jaxflows.bijectors.base import Params
from jaxflows.data import DataFileError, load_images
from jaxflows.flows import Flow
from jaxflows.log_det.estimators import power_series
from jaxflows.metrics import Gaussian
from jaxflows.training.evaluate import LogLikelihood, estimated_log_likelihood
from jaxflows.training.fit import fit

SHAPE = (32, 32, 3)
NOISE = 0.02
MODEL = Path("runs/cifar/cifar_residual.safetensors")
QUICK_MODEL = MODEL.parent / "quick" / MODEL.name
# leaves out less than 1e-3 nats a dimension of 24 blocks of Lipschitz constant 0.95
SCORING_TERMS = 160


def cifar_images(folder: Path, part: str) -> np.ndarray:
    """Images (n, 32, 32, 3) uint8 of 'train' or 'test', of the sheets that are there, in order of their names."""
    try:
        return load_images(folder, pattern=f"{part}_*.webp", tile=SHAPE[0])
    except DataFileError as error:
        raise SystemExit(f"{error}; pass --data-dir or set JAXFLOWS_DATA") from None


def noisy_pixels(key: jax.Array, batch: jax.Array) -> jax.Array:
    """Pixels in [0, 255] to [0, 1] plus N(0, NOISE^2)."""
    return batch / 255.0 + NOISE * jax.random.normal(key, batch.shape)


def mirrored_pixels(key: jax.Array, batch: jax.Array) -> jax.Array:
    """`noisy_pixels` of the batch with every image mirrored left to right by chance."""
    k_mirror, k_noise = jax.random.split(key)
    mirror = jax.random.bernoulli(k_mirror, shape=(len(batch), 1, 1, 1))
    return noisy_pixels(k_noise, jnp.where(mirror, batch[:, :, ::-1], batch))


def unit_pixels(images: np.ndarray) -> np.ndarray:
    """Pixels in [0, 255] to [0, 1]."""
    return np.asarray(images / 255.0)


def pixel_moments(
    images: np.ndarray, clean: Callable[[np.ndarray], np.ndarray] = unit_pixels, variance: float = NOISE**2
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of the noisy pixels of the images (n, height, width, channels) and their mirror images.

    The noise's share is added in closed form. Products are in float32, of 1,000 centred rows at a time, their sum in float64.

    Args:
        images: of 8 bits.
        clean: ``images -> pixels`` without noise, entry by entry.
        variance: of the noise.
    """
    chunks = [images[first : first + 1000] for first in range(0, len(images), 1000)]
    mean = sum(np.sum(clean(chunk), axis=0, dtype=np.float64) for chunk in chunks) / len(images)
    total = np.zeros((mean.size, mean.size))
    for chunk in chunks:
        centred = (clean(chunk) - mean).reshape(-1, mean.size).astype(np.float32)
        total += centred.T @ centred
    covariance = total / len(images)
    position = np.arange(mean.size).reshape(mean.shape)[:, ::-1].reshape(-1)
    # each image and its mirror image: the mean of both laws, whose means differ
    half = (mean - mean[:, ::-1]).reshape(-1) / 2
    both = (covariance + covariance[np.ix_(position, position)]) / 2 + np.outer(half, half)
    return (mean + mean[:, ::-1]).reshape(-1) / 2, both + variance * np.eye(mean.size)


def estimated_score(flow: Flow, params: Params, rows: jax.Array) -> LogLikelihood:
    """The log-density of test rows by a long power series, in single precision throughout."""
    with jax.default_matmul_precision("highest"):
        return estimated_log_likelihood(jax.random.key(2), flow, params, rows, power_series(terms=SCORING_TERMS))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, score."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_cifar_flow", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/cifar"), help="checkpoints and float32 parameters")
    parser.add_argument("--output", type=Path, default=MODEL, help="the model, in half precision")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="of the results file")
    parser.add_argument("--minutes", type=float, default=2.2, help="of training, compilation included")
    parser.add_argument("--blocks", type=int, default=8, help="a scale, of three")
    parser.add_argument("--channels", type=int, default=64, help="of both hidden layers of a block")
    parser.add_argument("--dense", type=int, default=0, metavar="N", help="dense blocks of N hidden units, --blocks in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--terms", type=int, default=8, help="of the power series in training")
    parser.add_argument("--test-images", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds of training of a tiny flow, all in --run-dir")
    options = parser.parse_args(arguments)
    if options.quick:
        options.minutes, options.test_images = 0.3, 4
        options.blocks, options.channels, options.batch_size = 1, 4, 8
        options.run_dir = options.run_dir / "quick"
        options.output, options.output_dir = options.run_dir / MODEL.name, options.run_dir

    train = cifar_images(options.data_dir / "cifar10", "train")
    test = cifar_images(options.data_dir / "cifar10", "test")[: options.test_images]
    mean, covariance = pixel_moments(train)
    start = None
    if options.dense:
        flow = flows.residual(event_shape=SHAPE, blocks=options.blocks, hidden=options.dense)
        start = gaussian_start(jax.random.key(3), flow, Gaussian(SHAPE, mean, np.linalg.cholesky(covariance)))
    else:
        flow = flows.residual_image(
            event_shape=SHAPE, blocks=options.blocks, scales=3, channels=(options.channels, options.channels)
        )
    params, report = fit(
        jax.random.key(options.seed),
        flow,
        train,
        params=start,
        epochs=1000,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        noise=mirrored_pixels,
        estimator=power_series(terms=options.terms),
        validation=0.0,
        checkpoint_dir=options.run_dir / "checkpoints",
        checkpoint_every=1000,
        max_seconds=60.0 * options.minutes,
    )
    print(f"trained: {report.steps} steps, loss {np.mean(report.losses[-50:]):.4f} nats a dimension", flush=True)

    about = {
        "data": "CIFAR-10, 32x32x3", "pixel_scale": 255, "noise_std": NOISE, "mirrored": True, "training_rows": len(train),
        "batch_size": options.batch_size, "learning_rate": options.learning_rate, "terms": options.terms,
        "minutes": options.minutes, "blocks": options.blocks, "channels": options.channels,
        "dense": options.dense,
    }  # fmt: skip
    ship_and_score(
        "train_cifar_flow", flow, params, report, test=np.asarray(noisy_pixels(jax.random.key(options.seed + 1), test)),
        mean=mean, covariance=covariance, levels=256, about=about, seeds=[options.seed, options.seed + 1, 2, 3],
        output=options.output, keep=options.run_dir / "cifar_residual_float32.safetensors", directory=options.output_dir,
        **({} if options.dense else {"score": estimated_score}),
    )  # fmt: skip


if __name__ == "__main__":
    main()
