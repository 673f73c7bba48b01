"""Train the shipped flow of CIFAR-10, and score it on test images beside one full Gaussian.

    python -m benchmarks.train_whitened_flow                    # what was shipped: ten minutes on a core
    python -m benchmarks.train_whitened_flow --epochs 20 --hidden 64 --layers 8 --output runs/whitened/large.safetensors
    python -m benchmarks.train_whitened_flow --quick            # a few steps of a tiny flow, all in --run-dir

`jaxflows.flows.whitened_image`, started from the second moments of 8,000 training images. Pixels are divided by 255 and get
noise N(0, 0.02^2), half of the images are mirrored; there is no logit, so linear measurements of pixels stay linear. Both are
as in `benchmarks.train_cifar_flow`, whose rows have the same keys. A run that is stopped goes on from its checkpoint when
started again. Writes the model and results/train_whitened_flow.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.flow_scores import ship_and_score
from benchmarks.results_file import RESULTS
from benchmarks.train_cifar_flow import NOISE, SHAPE, cifar_images, mirrored_pixels, noisy_pixels, pixel_moments
from jaxflows import flows
from jaxflows.training.fit import fit

MODEL = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "cifar10_whitened.safetensors"
FIRST_ROWS = 8_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, score."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_whitened_flow", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/whitened"), help="checkpoints and float32 parameters")
    parser.add_argument("--output", type=Path, default=MODEL, help="the model, in half precision")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="of the results file")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="its peak, falling to 0 as a cosine")
    parser.add_argument("--layers", type=int, default=4, help="couplings, divisible by 4")
    parser.add_argument("--hidden", type=int, default=32, help="channels of their networks")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps of a tiny flow, all in --run-dir")
    options = parser.parse_args(arguments)
    train = cifar_images(options.data_dir / "cifar10", "train")
    if options.quick:
        options.run_dir = options.run_dir / "quick"
        options.output, options.output_dir = options.run_dir / MODEL.name, options.run_dir
        options.hidden, options.epochs, options.test_images, train = 4, 1, 8, train[:512]
    test = cifar_images(options.data_dir / "cifar10", "test")[: options.test_images]
    flow = flows.whitened_image(event_shape=SHAPE, layers=options.layers, hidden=options.hidden)
    k_start, k_fit, k_test = jax.random.split(jax.random.key(options.seed), 3)
    first = mirrored_pixels(k_start, jnp.asarray(train[:FIRST_ROWS]))
    sizes = f"{options.layers}_{options.hidden}_{options.epochs}_{options.batch_size}"
    params, report = fit(
        k_fit,
        flow,
        train,
        params=flow.bijector.fit_to_data(flow.init(k_start), first),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        noise=mirrored_pixels,
        validation=0.0,
        checkpoint_dir=options.run_dir / "checkpoints" / sizes,
        checkpoint_every=500,
    )
    mean, covariance = pixel_moments(train)
    about = {
        "data": "CIFAR-10, 32x32x3", "pixel_scale": 255, "noise_std": NOISE, "mirrored": True, "training_rows": len(train),
        "epochs": options.epochs, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
        "layers": options.layers, "hidden": options.hidden,
    }  # fmt: skip
    ship_and_score(
        "train_whitened_flow", flow, params, report, test=np.asarray(noisy_pixels(k_test, jnp.asarray(test))), mean=mean,
        covariance=covariance, levels=256, about=about, seeds=[options.seed], output=options.output,
        keep=options.run_dir / "cifar10_whitened_float32.safetensors", directory=options.output_dir,
    )  # fmt: skip


if __name__ == "__main__":
    main()
