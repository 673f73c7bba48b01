"""The pre-generator: a second flow on the latent of the frozen one (Whang, Lindgren and Dimakis 2021, Algorithm 1)."""

from __future__ import annotations

import functools

import jax

from jaxflows.bijectors.base import Params
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.flow_posterior import FlowPosterior, composed
from jaxflows.inverse.latent import log_joint
from jaxflows.inverse.method import Method, serve_all
from jaxflows.inverse.noisy_measurements import NoisyMeasurement
from jaxflows.inverse.variational import Settings, Target, variational_method


@factory
def pregenerator(
    *,
    family: Flow | None = None,
    steps: int = 1000,
    num_draws: int = 64,
    learning_rate: float = 1e-3,
    sigma: float = 0.05,
    marginal_draws: int = 0,
) -> Method:
    """Fit a flow of the latent to the posterior, fresh for every measurement (Algorithm 1).

        minimise  KL(q(z) || N(0, I)) + E_q |A(f(z)) - b|^2 / (2 sigma^2)     (Eq. 4, up to a constant)

    over a flow q, by Adam on ``num_draws`` reparametrised draws a step. The bound is
    the joint one: E_q[log p(z, b) - log q(z)] <= log p(b), with p(b) smoothed by sigma where the measurement has no noise.
    Any other noise model takes the place of the quadratic term. The result carries the fitted q of events, y = f(q's latent),
    as its ``posterior``.

    Args:
        family: a flow over arrays of the latent's shape, explicit both ways to be cheap; affine couplings when None.
        steps, num_draws, learning_rate: of the fit; the supplement takes 1000 or 4000 steps, 8 to 64 draws, 5e-4 to 1e-3.
        sigma: smoothing of a measurement without noise.
        marginal_draws: K of the marginal bound of Appendix B.2 (`jaxflows.inverse.marginal_bound`), the result's ``marginal``;
            0 for none. Linear measurements alone have one.

    Cost: 2 ``steps`` x ``num_draws`` decodes of the flow and of q, gradients counted. The marginal bound takes K + 1 exact
    densities a sample, which are cheap where the flow is explicit.
    """
    settings = Settings(steps, num_draws, learning_rate, sigma)
    return variational_method(
        "pregenerator",
        serve_all,
        lambda flow: flow.latent_shape,
        latent_target,
        latent_posterior,
        family,
        settings,
        marginal_draws,
    )


def latent_posterior(flow: Flow, family: Flow, params: Params, theta: Params) -> FlowPosterior:
    """The q of events of a q of latents."""
    return FlowPosterior(composed(flow, family), (params, theta))


@functools.cache
def latent_target(flow: Flow, sigma: float) -> Target:
    """log p(z, b)."""

    def exact(params: Params, measurement: NoisyMeasurement, z: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return log_joint(flow, params, measurement, sigma, z)

    return Target(surrogate=lambda key, *arguments: exact(*arguments), exact=exact)
