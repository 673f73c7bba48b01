"""Training flows by maximum likelihood."""

from jaxflows.training.fit import FitReport, fit

__all__ = ["FitReport", "fit"]
