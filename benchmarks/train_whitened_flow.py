"""Train the shipped whitened flows of CIFAR-10 and MNIST, and score them on test images beside one full Gaussian.

    python -m benchmarks.train_whitened_flow --data cifar10     # what was shipped: ten minutes on a core
    python -m benchmarks.train_whitened_flow --data mnist       # of digits: ten minutes
    python -m benchmarks.train_whitened_flow --data cifar10 --epochs 20 --hidden 64 --layers 8 --output runs/large.safetensors
    python -m benchmarks.train_whitened_flow --data mnist --quick    # a few steps of a tiny flow, all in --run-dir

`jaxflows.flows.whitened_image`, started from the second moments of 8,000 training images. Pixels are divided by 255 and get
normal noise; half of the colour images are mirrored; there is no logit, so linear measurements of pixels stay linear. All of it
as in `benchmarks.train_cifar_flow` and `benchmarks.train_mnist_flow`, whose rows have the same keys. A run that is stopped goes
on from its checkpoint when started again. Writes the model and results/train_whitened_flow_DATA.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import train_cifar_flow, train_mnist_flow
from benchmarks.flow_scores import ship_and_score
from benchmarks.results_file import RESULTS
from jaxflows import flows
from jaxflows.training.fit import fit

MODELS = Path(__file__).parents[1] / "jaxflows" / "data" / "models"
CIFAR_MODEL = MODELS / "cifar10_whitened.safetensors"
MNIST_MODEL = MODELS / "mnist_whitened.safetensors"
FIRST_ROWS = 8_000


class Images(NamedTuple):
    """A data set as the flow is trained on it.

    Attributes:
        model: where its flow goes.
        hidden: channels of the couplings' networks.
        dense: width of the dense ones; 0 for none.
        load: ``folder of all data sets, whether of training -> images (n, height, width, channels)`` of 8 bits.
        training_noise, noise: ``key, batch of images -> events``, in training and of test images.
        moments: ``training images -> mean, covariance`` of the events.
        epochs: of training.
        about: of the events, kept with the model.
    """

    model: Path
    hidden: int
    dense: int
    load: Callable[[Path, bool], np.ndarray]
    training_noise: Callable[[jax.Array, jax.Array], jax.Array]
    noise: Callable[[jax.Array, jax.Array], jax.Array]
    moments: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    epochs: int
    about: dict[str, Any]


DATA = {
    "cifar10": Images(
        CIFAR_MODEL, 32, 0,
        lambda folder, training: train_cifar_flow.cifar_images(folder / "cifar10", "train" if training else "test"),
        train_cifar_flow.mirrored_pixels, train_cifar_flow.noisy_pixels, train_cifar_flow.pixel_moments, 5,
        {"data": "CIFAR-10, 32x32x3", "pixel_scale": 255, "noise_std": train_cifar_flow.NOISE, "mirrored": True},
    ),
    "mnist": Images(
        MNIST_MODEL, 16, 128,
        lambda folder, training: train_mnist_flow.mnist_images(folder / "mnist", "train" if training else "t10k")[..., None],
        train_mnist_flow.noisy_pixels, train_mnist_flow.noisy_pixels, train_mnist_flow.pixel_moments, 7,
        {"data": "MNIST, 28x28x1", "pixel_scale": 255, "noise_std": train_mnist_flow.NOISE, "mirrored": False},
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, score."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_whitened_flow", description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=DATA, required=True)
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/whitened"), help="checkpoints and float32 parameters")
    parser.add_argument("--output", type=Path, help="the model, in half precision (default: as it is shipped)")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="of the results file")
    parser.add_argument("--epochs", type=int, help="default: 5 of cifar10, 7 of mnist")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="its peak, falling to 0 as a cosine")
    parser.add_argument("--layers", type=int, default=4, help="couplings, divisible by 4")
    parser.add_argument("--hidden", type=int, help="channels of their networks (default: 32 of cifar10, 16 of mnist)")
    parser.add_argument(
        "--dense", type=int, help="width of the networks of dense couplings (default: 0 of cifar10, 128 of mnist)"
    )
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps of a tiny flow, all in --run-dir")
    options = parser.parse_args(arguments)
    images = DATA[options.data]
    model = images.model if options.output is None else options.output
    epochs = images.epochs if options.epochs is None else options.epochs
    hidden = images.hidden if options.hidden is None else options.hidden
    dense = images.dense if options.dense is None else options.dense
    train = images.load(options.data_dir, True)
    if options.quick:
        options.run_dir = options.run_dir / "quick"
        model, options.output_dir = options.run_dir / images.model.name, options.run_dir
        hidden, dense, options.test_images, train = 4, min(dense, 4), 8, train[:512]
        epochs = 1 if options.epochs is None else options.epochs
    test = images.load(options.data_dir, False)[: options.test_images]
    flow = flows.whitened_image(event_shape=train.shape[1:], layers=options.layers, hidden=hidden, dense=dense)
    k_start, k_fit, k_test = jax.random.split(jax.random.key(options.seed), 3)
    first = images.training_noise(k_start, jnp.asarray(train[:FIRST_ROWS]))
    sizes = f"{options.data}_{options.layers}_{hidden}_{dense}_{epochs}_{options.batch_size}"
    params, report = fit(
        k_fit,
        flow,
        train,
        params=flow.bijector.fit_to_data(flow.init(k_start), first),
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        noise=images.training_noise,
        validation=0.0,
        checkpoint_dir=options.run_dir / "checkpoints" / sizes,
        checkpoint_every=500,
    )
    mean, covariance = images.moments(train)
    about = images.about | {
        "training_rows": len(train), "epochs": epochs, "batch_size": options.batch_size, "learning_rate": options.learning_rate,
        "layers": options.layers, "hidden": hidden, "dense": dense,
    }  # fmt: skip
    ship_and_score(
        f"train_whitened_flow_{options.data}", flow, params, report, test=np.asarray(images.noise(k_test, jnp.asarray(test))),
        mean=mean, covariance=covariance, levels=256, about=about, seeds=[options.seed], output=model,
        keep=options.run_dir / f"{images.model.stem}_float32.safetensors", directory=options.output_dir,
    )  # fmt: skip


if __name__ == "__main__":
    main()
