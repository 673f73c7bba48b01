"""The digits the package ships, made by benchmarks/make_digits_sample.py."""

from __future__ import annotations

import importlib.resources

import numpy as np


def load_digits_sample() -> tuple[np.ndarray, np.ndarray]:
    """The first 300 digits of the MNIST TEST set (LeCun et al. 1998).

    Returns:
        ``(images, labels)``: (300, 28, 28) uint8, grey levels with 0 for paper, and (300,) uint8.
    """
    source = importlib.resources.files("jaxflows.data") / "digits" / "mnist_test_300.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return archive["images"], archive["labels"]
