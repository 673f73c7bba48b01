"""Log-determinants: exact, power series, Russian roulette, stochastic Lanczos; every estimate with its standard error."""

from jaxflows.log_det.estimators import exact, power_series, russian_roulette
from jaxflows.log_det.lanczos import stochastic_lanczos

__all__ = ["exact", "power_series", "russian_roulette", "stochastic_lanczos"]
