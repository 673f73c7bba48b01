"""PSNR and SSIM against scikit-image, by channels and rows, and their refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.metrics import psnr, ssim

# of `pictures()` by scikit-image 0.26.0: peak_signal_noise_ratio(truth, image, data_range=1), and structural_similarity(image,
# truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1), with channel_axis=-1 for the colours
GREY_PSNR, COLOUR_PSNR = 14.330796828752117, 14.635423991158817
GREY_SSIM, COLOUR_SSIM = 0.8410970486699944, 0.8530804261768451


def pictures():
    down, across = np.mgrid[0:13, 0:17]
    truth = 0.5 + 0.5 * np.sin(0.7 * down[..., None] + np.array([0.3, 0.5, 0.9]) * across[..., None])
    image = np.clip(truth + 0.3 * np.cos(1.3 * down * across)[..., None], 0.0, 1.0)
    return jnp.asarray(image[None]), jnp.asarray(truth[None])


@pytest.mark.parametrize(("score", "grey", "colour"), [(psnr, GREY_PSNR, COLOUR_PSNR), (ssim, GREY_SSIM, COLOUR_SSIM)])
def test_a_score_is_that_of_scikit_image(score, grey, colour):
    image, truth = pictures()
    np.testing.assert_allclose(score(image, truth), colour, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(score)(image[..., 0], truth[..., 0]), grey, rtol=2e-6)
    # in other units, the range said
    np.testing.assert_allclose(score(255 * image, 255 * truth, data_range=255.0), colour, rtol=2e-6)
    # over rows it is the mean of them
    both = jnp.concatenate([image[..., 0], 0.5 * image[..., 0]]), jnp.concatenate([truth[..., 0]] * 2)
    half = score(0.5 * image[..., 0], truth[..., 0])
    np.testing.assert_allclose(score(*both), (grey + half) / 2, rtol=2e-6)


def test_equal_images_and_gradients():
    image, truth = pictures()
    assert np.isinf(psnr(truth, truth))
    np.testing.assert_allclose(ssim(truth, truth), 1.0, atol=1e-6)
    assert np.all(np.isfinite(jax.grad(ssim)(truth, truth)))
    flat = jnp.ones((1, 12, 12))
    np.testing.assert_allclose(ssim(flat, flat), 1.0, atol=1e-6)
    direction = jnp.asarray(np.random.default_rng(0).standard_normal(image.shape), image.dtype)
    slope = jnp.vdot(jax.grad(ssim)(image, truth), direction)
    rise = ssim(image + 0.01 * direction, truth) - ssim(image - 0.01 * direction, truth)
    np.testing.assert_allclose(slope, rise / 0.02, rtol=2e-2)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_what_does_not_fit_is_refused(score):
    image, truth = pictures()
    with pytest.raises(
        ValueError, match=r"expected images and truth of one shape .* got \(1, 13, 17, 2\) and \(1, 13, 17, 3\)"
    ):
        score(image[..., :2], truth)
    with pytest.raises(ValueError, match="expected data_range > 0; got 0"):
        score(image, truth, data_range=0)


def test_an_image_smaller_than_the_window_has_no_similarity():
    with pytest.raises(ValueError, match=r"sides of at least 11; got \(1, 13, 10\)"):
        ssim(jnp.zeros((1, 13, 10)), jnp.zeros((1, 13, 10)))
