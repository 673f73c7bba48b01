"""Scores of completions where the truth is known, and the Gaussian that every completion has to beat."""

from jaxflows.metrics.chain_convergence import bulk_ess, split_r_hat
from jaxflows.metrics.completion_scores import CompletionScores, completion_scores
from jaxflows.metrics.frechet import Moments, frechet_distance, moments_of
from jaxflows.metrics.gaussian_baseline import (
    Gaussian,
    GaussianCompletion,
    fit_gaussian,
    gaussian_conditional,
    load_mnist_gaussian,
)
from jaxflows.metrics.gaussian_em import GaussianEmReport, fit_gaussian_em, observed_log_likelihood
from jaxflows.metrics.gaussian_pairs import fit_gaussian_pairs
from jaxflows.metrics.image_scores import psnr, ssim
from jaxflows.metrics.misgan_fid import mnist_accuracy, mnist_fid
from jaxflows.metrics.nonparanormal import Nonparanormal, fit_nonparanormal
from jaxflows.metrics.scores import crps, diversity, energy_score, interval_coverage, rmse_mean, rmse_sample

__all__ = [
    "CompletionScores",
    "Gaussian",
    "GaussianCompletion",
    "GaussianEmReport",
    "Moments",
    "Nonparanormal",
    "bulk_ess",
    "completion_scores",
    "crps",
    "diversity",
    "energy_score",
    "fit_gaussian",
    "fit_gaussian_em",
    "fit_gaussian_pairs",
    "fit_nonparanormal",
    "frechet_distance",
    "gaussian_conditional",
    "interval_coverage",
    "load_mnist_gaussian",
    "mnist_accuracy",
    "mnist_fid",
    "moments_of",
    "observed_log_likelihood",
    "psnr",
    "rmse_mean",
    "rmse_sample",
    "split_r_hat",
    "ssim",
]
