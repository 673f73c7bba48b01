"""Digits of MNIST with holes, as flows of ours are trained on them, and where their completions begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows import gaussian_completions
from jaxflows.data import load_array, mcar
from jaxflows.flows import Flow
from jaxflows.flows.entrywise import behind_entrywise
from jaxflows.metrics import Gaussian, Nonparanormal, fit_gaussian_pairs, fit_nonparanormal

NOISE = 0.05
SHAPE = (28, 28)


class Problem(NamedTuple):
    """Digits in [0, 1], (n, 784), with their masks and labels."""

    train: np.ndarray
    train_mask: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_mask: np.ndarray
    test_labels: np.ndarray


def problem_of(folder: Path, missing: float, seed: int) -> Problem:
    """All images with masks of this rate; a subset's are the first of them."""
    parts = []
    for number, part in enumerate(("train", "t10k")):
        images = load_array(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, 784).astype(np.float32) / 255
        masks = mcar(len(images), (784,), missing, seed=2 * seed + number)
        parts += [images, masks, load_array(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int32)]
    return Problem(*parts)


def noisy(key: jax.Array, batch: jax.Array) -> jax.Array:
    """Pixels in [0, 1] plus N(0, 0.05^2)."""
    return batch + NOISE * jax.random.normal(key, batch.shape, batch.dtype)


class Part(NamedTuple):
    """The arrays of a problem as events of a flow of ours, and the Gaussian of all training digits, with noise.

    It is behind a map of grey levels where the flow is.
    """

    train: np.ndarray
    train_mask: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_mask: np.ndarray
    gaussian: Gaussian | Nonparanormal


def part_of(key: jax.Array, problem: Problem, rows: int, flow: Flow) -> Part:
    """What a flow of ours is trained on: the first ``rows`` digits."""

    def events(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(-1, *flow.event_shape)

    behind = behind_entrywise(flow)
    if behind is None:
        gaussian: Any = fit_gaussian_pairs(events(problem.train), events(problem.train_mask)).with_noise(NOISE**2)
    else:
        told = events(np.asarray(noisy(key, jnp.asarray(problem.train))))
        gaussian = fit_nonparanormal(told, events(problem.train_mask), front=behind.front)
    some = slice(0, rows)
    return Part(
        events(problem.train[some]), events(problem.train_mask[some]), problem.train_labels[some], events(problem.test),
        events(problem.test_mask), gaussian,
    )  # fmt: skip


def class_completions(key: jax.Array, problem: Problem, part: Part, rank: int | None) -> np.ndarray:
    """What a flow of ours is trained on, filled by draws of one Gaussian for each class, all drawn to that of all classes."""
    assert isinstance(part.gaussian, Nonparanormal)
    k_noise, k_draw = jax.random.split(key)
    shape = (-1, *part.train.shape[1:])
    rows = np.asarray(noisy(k_noise, jnp.asarray(problem.train))).reshape(shape)
    behind, masks = part.gaussian.to_gaussian(rows), problem.train_mask.reshape(shape)
    filled = np.empty_like(part.train)
    for number in range(int(problem.train_labels.max()) + 1):
        every, some = problem.train_labels == number, np.flatnonzero(part.labels == number)
        gaussian = fit_gaussian_pairs(behind[every], masks[every], prior=part.gaussian.gaussian)
        filled[some] = gaussian_completions(
            jax.random.fold_in(k_draw, number), part.gaussian.with_gaussian(gaussian), rows[some], masks[some], rank=rank,
            progress=False,
        )  # fmt: skip
    return filled
