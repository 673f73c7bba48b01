"""Digits of MNIST with holes, as flows of ours are trained on them, and where their completions begin."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

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
    """The arrays of a problem as events of a flow of ours, and the Gaussian of all training digits, without noise."""

    train: np.ndarray
    train_mask: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_mask: np.ndarray
    gaussian: Gaussian


def part_of(problem: Problem, rows: int, flow: Flow) -> Part:
    """What a flow of ours is trained on: the first ``rows`` digits."""

    def events(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(-1, *flow.event_shape)

    gaussian = fit_gaussian_pairs(events(problem.train), events(problem.train_mask))
    some = slice(0, rows)
    return Part(
        events(problem.train[some]), events(problem.train_mask[some]), problem.train_labels[some], events(problem.test),
        events(problem.test_mask), gaussian,
    )  # fmt: skip


def copula_of(key: jax.Array, problem: Problem, flow: Flow) -> Nonparanormal:
    """The Gaussian of all training digits behind the map of grey levels that the flow begins with."""
    behind = behind_entrywise(flow)
    assert behind is not None
    rows, masks = (t.reshape(-1, *flow.event_shape) for t in (problem.train, problem.train_mask))
    return fit_nonparanormal(np.asarray(noisy(key, jnp.asarray(rows))), masks, front=behind.front)


def class_completions(key: jax.Array, problem: Problem, part: Part, rank: int | None, matched: bool) -> np.ndarray:
    """What a flow of ours is trained on, filled by draws of one Gaussian for each class, all drawn to that of all classes.

    ``matched`` gives them the grey levels of the class's observed pixels.
    """
    k_noise, k_draw = jax.random.split(key)
    rows = np.asarray(noisy(k_noise, jnp.asarray(part.train)))
    filled = np.empty_like(rows)
    for number in range(int(problem.train_labels.max()) + 1):
        every, some = problem.train_labels == number, part.labels == number
        shape = (-1, *part.train.shape[1:])
        gaussian = fit_gaussian_pairs(
            problem.train[every].reshape(shape), problem.train_mask[every].reshape(shape), prior=part.gaussian
        )
        filled[some] = gaussian_completions(
            jax.random.fold_in(k_draw, number), gaussian.with_noise(NOISE**2), rows[some], part.train_mask[some], rank=rank,
            matched=matched, progress=False,
        )  # fmt: skip
    return filled
