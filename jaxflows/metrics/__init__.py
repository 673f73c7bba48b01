"""Scores of completions where the truth is known, and the Gaussian that every completion has to beat."""

from jaxflows.metrics.gaussian_baseline import (
    Gaussian,
    GaussianCompletion,
    fit_gaussian,
    gaussian_conditional,
    load_mnist_gaussian,
)
from jaxflows.metrics.gaussian_em import GaussianEmReport, fit_gaussian_em, observed_log_likelihood
from jaxflows.metrics.image_scores import psnr, ssim
from jaxflows.metrics.scores import crps, diversity, energy_score, interval_coverage, rmse_mean, rmse_sample

__all__ = [
    "Gaussian",
    "GaussianCompletion",
    "GaussianEmReport",
    "crps",
    "diversity",
    "energy_score",
    "fit_gaussian",
    "fit_gaussian_em",
    "gaussian_conditional",
    "interval_coverage",
    "load_mnist_gaussian",
    "observed_log_likelihood",
    "psnr",
    "rmse_mean",
    "rmse_sample",
    "ssim",
]
