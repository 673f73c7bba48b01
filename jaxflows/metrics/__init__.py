"""Scores of completions where the truth is known, and the Gaussian that every completion has to beat."""

from jaxflows.metrics.gaussian_baseline import (
    Gaussian,
    GaussianCompletion,
    fit_gaussian,
    gaussian_conditional,
    load_mnist_gaussian,
)
from jaxflows.metrics.scores import crps, energy_score, interval_coverage, rmse_mean, rmse_sample

__all__ = [
    "Gaussian",
    "GaussianCompletion",
    "crps",
    "energy_score",
    "fit_gaussian",
    "gaussian_conditional",
    "interval_coverage",
    "load_mnist_gaussian",
    "rmse_mean",
    "rmse_sample",
]
