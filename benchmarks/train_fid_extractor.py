"""Train the classifier whose features `misgan-mnist-fid` compares, and say how far the distances depend on its seed.

    python -m benchmarks.train_fid_extractor --seeds 0 1 2 --epochs 12    # as shipped, on a GPU; the first seed is
    python -m benchmarks.train_fid_extractor                          # two seeds of 3 epochs
    python -m benchmarks.train_fid_extractor --seeds 0 1 2 --epochs 100   # as long as MisGAN's
    python -m benchmarks.train_fid_extractor --quick                  # some steps; nothing shipped

Batches of 64 of (pixels - 0.1307) / 0.3081, dropout, as PyTorch's MNIST example that MisGAN took; but momentum 0.9 and a cosine
in place of momentum 0.5 and a constant rate, so that few epochs do. Row keys: seed, epochs, accuracy (clean test digits),
fid_test (of the 10,000 clean test digits), fid_gaussian_half (of the shipped Gaussian's conditional mean of the 300 shipped
digits, half their pixels missing), seconds, sha256.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.results_file import RESULTS, write_results
from jaxflows.data import load_array, load_digits_sample, mcar
from jaxflows.metrics import gaussian_conditional, load_mnist_gaussian
from jaxflows.metrics.frechet import moments_of
from jaxflows.metrics.misgan_fid import CENTRE, SCALE, load_extractor, mnist_accuracy, mnist_features, mnist_fid, save_extractor
from jaxflows.networks.mnist_classifier import MnistClassifier

MODEL = Path(__file__).parents[1] / "jaxflows" / "data" / "models" / "mnist_fid_extractor.npz"
BATCH, MOMENTUM, RATE = 64, 0.9, 0.01


@functools.partial(jax.jit, static_argnums=(0, 1))
def some_steps(network: MnistClassifier, optimizer: Any, state: Any, key: jax.Array, batches: Any) -> Any:
    """One step for each of the batches, (steps, 64, ...)."""

    def loss(params: Any, k: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        _, logits = network.apply({"params": params}, images, training=True, rngs={"dropout": k})
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(state: Any, inputs: Any) -> Any:
        params, inner = state
        updates, inner = optimizer.update(jax.grad(loss)(params, *inputs), inner)
        return (optax.apply_updates(params, updates), inner), None

    images, labels = batches
    return jax.lax.scan(step, state, (jax.random.split(key, len(labels)), images, labels))[0]


def train(images: np.ndarray, labels: np.ndarray, *, seed: int, epochs: int, chunk: int = 100) -> Any:
    """Parameters of the classifier after so many epochs on (n, 28, 28) in [0, 1]."""
    network = MnistClassifier()
    steps = epochs * (len(images) // BATCH)
    optimizer = optax.sgd(optax.cosine_decay_schedule(RATE, steps), MOMENTUM)
    key = jax.random.key(seed)
    params = jax.jit(network.init)(key, jnp.zeros((1, 28, 28)))["params"]
    state = params, optimizer.init(params)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(len(images))[: len(images) // BATCH * BATCH].reshape(-1, BATCH)
        for first in range(0, len(order), chunk):
            batch = order[first : first + chunk]
            shown = (images[batch] - np.float32(CENTRE)) / np.float32(SCALE)
            key, k = jax.random.split(key)
            state = some_steps(network, optimizer, state, k, (shown, labels[batch].astype(np.int32)))
        print(f"seed {seed}: epoch {epoch + 1} of {epochs}", flush=True)
    return state[0]


def main() -> None:
    """Train every seed, ship the first, write results/train_fid_extractor.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.train_fid_extractor", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JAXFLOWS_DATA", "../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one epoch of 640 images; nothing shipped, written to runs/")
    options = parser.parse_args()
    folder = Path(options.data_dir) / "mnist"
    images, test = (load_array(folder / f"{part}-images-idx3-ubyte.gz") / np.float32(255) for part in ("train", "t10k"))
    labels, test_labels = (load_array(folder / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k"))
    if options.quick:
        images, labels, options.epochs, options.seeds = images[:640], labels[:640], 1, options.seeds[:1]
    digits = load_digits_sample()[0] / np.float32(255)
    observed = mcar(len(digits), (28, 28), 0.5, seed=0)
    completed = np.clip(gaussian_conditional(load_mnist_gaussian(), digits, observed).mean, 0, 1)
    directory = Path("runs") if options.quick else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        began = time.perf_counter()
        params = train(images, labels, seed=seed, epochs=options.epochs)
        seconds = time.perf_counter() - began
        shipped = seed == options.seeds[0] and not options.quick
        path = MODEL if shipped else Path("runs") / f"mnist_fid_extractor_{seed}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = save_extractor(path, params, moments_of(mnist_features(params, images)))
        extractor = load_extractor(path)
        rows.append(
            {
                "seed": seed, "epochs": options.epochs, "training_images": len(images), "shipped": shipped,
                "accuracy": mnist_accuracy(test, test_labels, extractor=extractor),
                "fid_test": mnist_fid(test, extractor=extractor),
                "fid_gaussian_half": mnist_fid(completed, extractor=extractor), "seconds": seconds, "sha256": digest,
            }
        )  # fmt: skip
    write_results("train_fid_extractor", rows, seeds=options.seeds, directory=directory)


if __name__ == "__main__":
    main()
