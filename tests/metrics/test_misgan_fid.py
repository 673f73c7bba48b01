"""The Frechet distance against closed forms, and the shipped extractor against what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxflows.data import load_digits_sample
from jaxflows.metrics import Moments, frechet_distance, mnist_accuracy, mnist_fid, moments_of
from jaxflows.metrics.misgan_fid import load_extractor, save_extractor


def test_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((2, 5, 5))
    one, other = (Moments(rng.standard_normal(5), root @ root.T) for root in roots)
    expected = np.sum((one.mean - other.mean) ** 2) + np.trace(
        one.covariance + other.covariance - 2 * sqrtm(one.covariance @ other.covariance).real
    )
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    # commuting covariances: the sum of the squared differences of deviations
    a, b = Moments(np.zeros(3), np.diag([1.0, 4.0, 0.0])), Moments(np.ones(3), np.diag([9.0, 1.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(3 + 4 + 1)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)
    samples = rng.multivariate_normal(one.mean, one.covariance, 200_000)
    assert frechet_distance(moments_of(samples), one) < 1e-3 * np.trace(one.covariance)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"at least two images; got shape \(1, 3\)"):
        moments_of(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="first in row 1"):
        moments_of(np.array([[0.0], [np.nan], [1.0]]))
    with pytest.raises(ValueError, match=r"\(n, 28, 28\); got shape \(2, 784\)"):
        mnist_fid(np.zeros((2, 784)))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]; got 0.0 to 255.0"):
        mnist_fid(np.stack([np.zeros((28, 28)), np.full((28, 28), 255.0)]))


def test_the_shipped_extractor_knows_digits_and_sees_what_is_done_to_them():
    images, labels = load_digits_sample()
    images = images / np.float32(255)
    # 0.968 on all 10,000, less five standard errors of 300
    assert mnist_accuracy(images, labels) > 0.968 - 5 * np.sqrt(0.968 * 0.032 / 300)
    noise = np.random.default_rng(0).standard_normal(images.shape)
    distances = [mnist_fid(np.clip(images + sigma * noise, 0, 1)) for sigma in (0.0, 0.3, 0.6)]
    assert distances == sorted(distances)
    assert distances[2] > 5 * distances[0]


def test_a_changed_extractor_is_refused(tmp_path):
    extractor = load_extractor()
    digest = save_extractor(tmp_path / "same.npz", extractor.params, extractor.reference)
    assert digest == extractor.sha256 == load_extractor(tmp_path / "same.npz").sha256
    with np.load(tmp_path / "same.npz") as archive:
        arrays = dict(archive)
    arrays["reference/mean"] = arrays["reference/mean"] + 1
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match="checksum"):
        load_extractor(tmp_path / "other.npz")
