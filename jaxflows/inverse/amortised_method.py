"""The pre-generator trained once: one pass for any measurement of the kind it was trained on."""

from __future__ import annotations

import jax

from jaxflows.bijectors.base import Params
from jaxflows.flows import Flow
from jaxflows.inverse.amortised_pregenerator import AmortisedPregenerator
from jaxflows.inverse.marginal_bound import refuse_unless_marginal
from jaxflows.inverse.method import Method, Outcome
from jaxflows.inverse.noisy_measurements import NoisyMeasurement
from jaxflows.inverse.pregenerator_method import latent_posterior, latent_target
from jaxflows.inverse.variational import check_marginal_draws, weighted_draws, with_marginal


def amortised(model: AmortisedPregenerator | None = None, *, marginal_draws: int = 0) -> Method:
    """Ask a pre-generator that was trained once; nothing is fitted.

    Samples come with the exact weights log p(z, b) - log q(z | b) and their bound, as those of
    `jaxflows.inverse.pregenerator`: what amortisation costs is seen in them.

    Args:
        model: from `jaxflows.inverse.fit_amortised_pregenerator`, trained on this flow; there is none to begin with.
        marginal_draws: as `jaxflows.inverse.pregenerator`.

    Serves measurements of the kind in training. Cost: one decode of the flow and one of the pre-generator a sample.
    """
    check_marginal_draws(marginal_draws)

    def refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
        if model is None:
            return (
                "expected a pre-generator that was trained, `inverse.amortised(model)` with a model from "
                "`inverse.fit_amortised_pregenerator`; got none, as a name alone brings none"
            )
        reason = model.refuse(flow, measurement)
        return refuse_unless_marginal(flow, measurement) if reason is None and marginal_draws else reason

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        assert model is not None
        # with noise the likelihood has its own width
        sigma, theta = float(model.sigma) if model.exact else 1.0, model.given(measurement)
        k_draw, k_marginal = jax.random.split(key)
        outcome = weighted_draws(model.family, latent_target(flow, sigma), num_samples, k_draw, params, theta, measurement)
        outcome = outcome._replace(posterior=latent_posterior(flow, model.family, params, theta))
        if not marginal_draws:
            return outcome
        return with_marginal(outcome, flow, params, measurement, sigma, marginal_draws, k_marginal)

    return Method("amortised", refuse, run)
