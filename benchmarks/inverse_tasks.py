"""What `benchmarks.inverse_problems` infers: test images as the events of a flow, and what is measured of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.train_cifar_flow import cifar_images
from benchmarks.train_mnist_flow import MODEL as RESIDUAL_MODEL
from benchmarks.train_mnist_flow import mnist_images
from benchmarks.train_whitened_flow import CIFAR_MODEL, MNIST_MODEL
from jaxflows import measurements
from jaxflows.bijectors.base import Shape
from jaxflows.cli.train_options import MOST_BITS
from jaxflows.data import load_digits_sample, named_mask
from jaxflows.inverse.noisy_measurements import NoisyMeasurement, noisy_measurement
from jaxflows.observation import LinearMeasurement

INPAINTING = ("inpainting_centre", "inpainting_half", "inpainting_random_50", "inpainting_random_90")


class Pixels(NamedTuple):
    """How pixels of 8 bits become events of a flow, as its model file says.

    Attributes:
        bits: that are kept of a pixel and spread evenly over their cell of [0, 1]; None where pixels are divided and get
            normal noise instead.
        scale: what they are divided by, then.
        noise: deviation of that noise.
    """

    bits: int | None
    scale: float
    noise: float

    def clean(self, images: np.ndarray) -> np.ndarray:
        """The mean of the events of images, float32 in [0, 1]."""
        if self.bits is None:
            return (images / self.scale).astype(np.float32)
        return (((images >> (MOST_BITS - self.bits)) + 0.5) / 2.0**self.bits).astype(np.float32)

    def events(self, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
        """Events of images (n, *event); the noise of image i depends on ``seed`` and i alone."""
        rngs = [np.random.default_rng((seed, number)) for number in range(len(images))]
        if self.bits is None:
            noise = np.stack([self.noise * rng.standard_normal(images.shape[1:]) for rng in rngs])
        else:
            noise = np.stack([(rng.random(images.shape[1:]) - 0.5) / 2.0**self.bits for rng in rngs])
        return (self.clean(images) + noise).astype(np.float32)

    def variance(self) -> float:
        """Of an event's entry about its clean pixel."""
        return self.noise**2 if self.bits is None else 4.0**-self.bits / 12.0


def pixels_of(about: Mapping[str, Any]) -> Pixels:
    """From the metadata of a model file.

    Raises:
        ValueError: metadata that do not say how pixels were scaled.
    """
    if about.get("bits") is None and "pixel_scale" not in about:
        raise ValueError(f"expected a model of images, whose file says how pixels were scaled; got metadata {sorted(about)}")
    return Pixels(about.get("bits"), float(about.get("pixel_scale", 1.0)), float(about.get("noise_std", 0.0)))


def _hidden(share: float) -> Callable[[Shape, int], LinearMeasurement]:
    return lambda shape, number: measurements.entries(hidden_at_random(share, shape, number))


def hidden_at_random(share: float, shape: Shape, seed: int) -> np.ndarray:
    """A mask, True where observed: exactly this share of the pixels hidden, in all channels, so that one program serves all."""
    height, width, *channels = shape
    observed = np.ones(height * width, bool)
    observed[np.random.default_rng(seed).permutation(observed.size)[: round(share * observed.size)]] = False
    whole = observed.reshape(height, width, *(1 for _ in channels))
    return np.broadcast_to(whole, shape).copy()


# name -> the measurement of events of a shape; of those at random, of the image of a number
TASKS: dict[str, Callable[[Shape, int], LinearMeasurement]] = {
    "inpainting_centre": lambda shape, number: measurements.entries(named_mask("centre:8", shape)),
    "inpainting_half": lambda shape, number: measurements.entries(named_mask("left", shape)),
    "inpainting_random_50": _hidden(0.5),
    "inpainting_random_90": _hidden(0.9),
    **{
        f"compressed_sensing_{count}": lambda shape, number, count=count: measurements.gaussian(shape, count)
        for count in (25, 50, 100, 200, 400)
    },
    **{
        f"super_resolution_{factor}": lambda shape, number, factor=factor: measurements.average_pooling(shape, factor)
        for factor in (2, 4)
    },
    "colourisation": lambda shape, number: measurements.grey_scale(shape),
}


@functools.cache
def operator_of(task: str, shape: Shape, number: int) -> LinearMeasurement:
    """What is measured of an image in a task; factorised once."""
    return TASKS[task](shape, number)


class Source(NamedTuple):
    """A data set.

    Attributes:
        images: their name, as the papers have it; a data set may be measured under several flows.
        model: the flow that is conditioned where no other is named.
        test, train: ``folder of all data sets -> images of 8 bits``.
        tasks: what is measured of it.
    """

    images: str
    model: Path
    test: Callable[[Path], np.ndarray]
    train: Callable[[Path], np.ndarray]
    tasks: tuple[str, ...]


# the shipped sample of the test digits, which every other benchmark of digits completes
_DIGITS = Source(
    "mnist", RESIDUAL_MODEL, lambda folder: load_digits_sample()[0],
    lambda folder: mnist_images(folder / "mnist", "train"), tuple(task for task in TASKS if task != "colourisation"),
)  # fmt: skip

DATA = {
    "mnist": _DIGITS,
    "mnist_whitened": _DIGITS._replace(model=MNIST_MODEL),
    "cifar10": Source(
        "cifar10", CIFAR_MODEL,
        functools.cache(lambda folder: cifar_images(folder / "cifar10", "test")),
        functools.cache(lambda folder: cifar_images(folder / "cifar10", "train")),
        tuple(task for task in TASKS if not task.startswith("compressed_sensing")),
    ),
}  # fmt: skip


def readings(task: str, events: np.ndarray) -> tuple[list[NoisyMeasurement], np.ndarray]:
    """What is read of every event, and which of its entries are then known: none unless entries themselves were measured."""
    made, known = [], np.zeros(events.shape, bool)
    for number, event in enumerate(events):
        # the number matters where masks are drawn
        operator = operator_of(task, events.shape[1:], number if "random" in task else 0)
        made.append(noisy_measurement(operator, np.asarray(operator.measure(jnp.asarray(event)))))
        if task in INPAINTING:
            known[number] = np.asarray(operator.observation.observed)
    return made, known


def training_masks(count: int, shape: Shape) -> np.ndarray:
    """Masks of all inpainting tasks in turn, those at random drawn with other seeds than any test image's, (count, *shape)."""
    first = 1_000_000
    drawn = []
    for number in range(count):
        task = INPAINTING[number % len(INPAINTING)]
        share = {"inpainting_random_50": 0.5, "inpainting_random_90": 0.9}.get(task)
        name = "centre:8" if task == "inpainting_centre" else "left"
        drawn.append(named_mask(name, shape) if share is None else hidden_at_random(share, shape, first + number))
    return np.stack(drawn)
