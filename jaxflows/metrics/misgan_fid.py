"""The Frechet distance of MNIST digits by the protocol of MisGAN (Li et al. 2019), `misgan-mnist-fid`, with our own weights.

The extractor is `jaxflows.networks.mnist_classifier.MnistClassifier`, trained on (pixels - 0.1307) / 0.3081. As in the authors'
code, images are shown to it in [0, 1] WITHOUT that normalisation, the features are the 50 numbers before the last ReLU, the
reference is all 60,000 complete training images. They score 59,968 completed training images as their network gives them, what
was observed not put back; which images to score is up to you.

Their weights were never published, so no two papers' distances compare, nor do these with any paper's: compare only what the
same weights scored. Ours ship with a checksum; `benchmarks/train_fid_extractor.py` made them, and says how far the distances
move when another seed trains them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.metrics.frechet import Moments, frechet_distance, moments_of
from jaxflows.precision import full_precision

CENTRE, SCALE = 0.1307, 0.3081
# images shown to the extractor at once
_AT_ONCE = 1000


class MnistExtractor(NamedTuple):
    """A trained classifier and what its features are compared with.

    Attributes:
        params: of `MnistClassifier`.
        reference: moments of the features of the 60,000 training images.
        sha256: of both.
    """

    params: Any
    reference: Moments
    sha256: str


def save_extractor(path: Path, params: Any, reference: Moments) -> str:
    """Write an extractor as an npz file; returns its checksum."""
    arrays: dict[str, Any] = {
        f"{layer}/{name}": np.asarray(leaf) for layer, leaves in params.items() for name, leaf in leaves.items()
    }
    arrays |= {"reference/mean": reference.mean, "reference/covariance": reference.covariance}
    digest = _digest(arrays)
    np.savez_compressed(path, sha256=np.asarray(digest), **arrays)
    return digest


def load_extractor(path: Path | None = None) -> MnistExtractor:
    """The shipped extractor, or one that `save_extractor` wrote.

    Raises:
        ValueError: a file whose checksum is not that of its numbers.
    """
    source = importlib.resources.files("jaxflows.data") / "models" / "mnist_fid_extractor.npz" if path is None else path
    with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    digest = str(arrays.pop("sha256", ""))
    if digest != _digest(arrays):
        raise ValueError(f"expected {source} to hold numbers with the checksum {digest or 'that it lacks'}; got others")
    reference = Moments(arrays.pop("reference/mean"), arrays.pop("reference/covariance"))
    params: dict[str, dict[str, Any]] = {}
    for name, leaf in arrays.items():
        layer, _, part = name.partition("/")
        params.setdefault(layer, {})[part] = jnp.asarray(leaf)
    return MnistExtractor(params, reference, digest)


def mnist_fid(images: np.ndarray, *, extractor: MnistExtractor | None = None) -> float:
    """`misgan-mnist-fid` of images, less is better.

    Args:
        images: (n, 28, 28) in [0, 1], n >= 2: generated images, or one completion of each image. The distance of few images is
            biased upwards: compare systems on equally many (the protocol takes 60,000).
        extractor: the shipped one when None.
    """
    extractor = load_extractor() if extractor is None else extractor
    return frechet_distance(moments_of(mnist_features(extractor.params, images)), extractor.reference)


def mnist_accuracy(images: np.ndarray, labels: np.ndarray, *, extractor: MnistExtractor | None = None) -> float:
    """Share of images that the extractor's classifier, trained on complete digits, gives their label.

    Args:
        images: (n, 28, 28) in [0, 1].
        labels: (n,) integers.
        extractor: the shipped one when None.
    """
    images, labels = _checked(images), np.asarray(labels)
    if labels.shape != images.shape[:1]:
        raise ValueError(f"expected a label an image, {images.shape[:1]}; got {labels.shape}")
    extractor = load_extractor() if extractor is None else extractor
    logits = _in_parts(extractor.params, (images - CENTRE) / SCALE, 1)
    return float(np.mean(logits.argmax(axis=1) == labels))


def mnist_features(params: Any, images: np.ndarray) -> np.ndarray:
    """The 50 features of each image, (n, 50), images in [0, 1] as they are."""
    return _in_parts(params, _checked(images), 0)


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float32)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise ValueError(f"expected images (n, 28, 28); got shape {images.shape}")
    if not np.all((images >= 0) & (images <= 1)):
        raise ValueError(f"expected pixels in [0, 1]; got {images.min()} to {images.max()}")
    return images


def _in_parts(params: Any, images: np.ndarray, output: int) -> np.ndarray:
    parts = []
    for first in range(0, len(images), _AT_ONCE):
        part = images[first : first + _AT_ONCE]
        # the last part is filled up: one compiled shape for all
        whole = np.concatenate([part, np.zeros((min(_AT_ONCE, len(images)) - len(part), 28, 28), np.float32)])
        parts.append(np.asarray(_apply(params, whole)[output])[: len(part)])
    return np.concatenate(parts)


@jax.jit
@full_precision
def _apply(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _classifier().apply({"params": params}, images)


@functools.cache
def _classifier() -> Any:
    # flax is slow to import, and the other metrics do without
    from jaxflows.networks.mnist_classifier import MnistClassifier

    return MnistClassifier()


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
