"""Scores of completions where the truth is known, and the Gaussian that every completion has to beat."""

from jaxflows.metrics.completion_scores import CompletionScores, completion_scores
from jaxflows.metrics.gaussian_baseline import (
    Gaussian,
    GaussianCompletion,
    fit_gaussian,
    gaussian_conditional,
    load_mnist_gaussian,
)
from jaxflows.metrics.gaussian_em import GaussianEmReport, fit_gaussian_em, observed_log_likelihood
from jaxflows.metrics.scores import crps, energy_score, interval_coverage, rmse_mean, rmse_sample

__all__ = [
    "CompletionScores",
    "Gaussian",
    "GaussianCompletion",
    "GaussianEmReport",
    "completion_scores",
    "crps",
    "energy_score",
    "fit_gaussian",
    "fit_gaussian_em",
    "gaussian_conditional",
    "interval_coverage",
    "load_mnist_gaussian",
    "observed_log_likelihood",
    "rmse_mean",
    "rmse_sample",
]
