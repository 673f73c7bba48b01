"""What is solved for, tested, weighed or reported is in full precision, on devices that round products too."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import flows, observe
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.constraint import solve
from jaxflows.conditional.elbo import ESTIMATORS, draw, nlade
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.mixture import draw_mixture
from jaxflows.conditional.posteriors import householder, mean_field, reference
from jaxflows.conditional.sample import draw_samples
from jaxflows.networks.inference_network import DenseInference
from jaxflows.networks.prediction_head import fresh_head
from jaxflows.solvers.robust import quick_solver
from jaxflows.training.joint_loss import IncompleteBatch, joint_loss
from tests.rounded_products import rounded_products

FLOWS = {
    "residual": flows.residual(event_shape=(6,), blocks=2, hidden=4),
    "residual_image": flows.residual_image(event_shape=(4, 4, 1), blocks=1, channels=(2,), kernels=(3, 3)),
    "implicit": flows.implicit(event_shape=(6,), blocks=1, hidden=4),
    "sylvester": flows.sylvester(event_shape=(6,), blocks=2, rank=2),
    "realnvp": flows.realnvp(event_shape=(6,), layers=2, hidden=2, blocks=1),
}
KEY = jax.random.key(0)


def half_of(flow):
    """Every other entry observed."""
    return observe.mask(np.arange(flow.size).reshape(flow.event_shape) % 2 == 0)


@pytest.mark.parametrize("name", FLOWS)
def test_densities_inverses_solutions_and_certificates(name, random_params):
    flow = FLOWS[name]
    params, y, x = random_params(flow), jnp.zeros(flow.event_shape), jnp.zeros(flow.latent_shape)
    # the layers themselves are left to what JAX is set to
    assert rounded_products(flow.bijector.transform, params, y)
    # hand-written rules are traced when a program is differentiated, and not where it is written
    decoded = jax.jit(lambda p, t: jnp.sum(flow.decode(p, t)[0]))
    solved = jax.jit(lambda p, t: jnp.sum(solve(flow, p, half_of(flow), y, t, solver=quick_solver(False))[0]))
    programs = {
        "encode": (flow.encode, y), "log_prob": (jax.grad(flow.log_prob), y), "decode": (flow.decode, x),
        "its gradient": (jax.grad(decoded, (0, 1)), x), "solve": (jax.grad(solved, (0, 1)), x),
        "constrain": (lambda p, _: flow.bijector.constrain(p), x), "lipschitz": (lambda p, _: flow.bijector.lipschitz(p), x),
    }  # fmt: skip
    found = {what: rounded_products(program, params, at) for what, (program, at) in programs.items()}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual_image", {"posterior": mean_field(start="prior"), "solver": quick_solver(False)}),
        ("residual", {"partition": "auto"}),
    ],
)
def test_draws_and_their_weights(name, options, random_params):
    flow = FLOWS[name]
    drawn = functools.partial(draw_samples, KEY, flow, num_samples=2, **options)
    assert not rounded_products(lambda p: drawn(p, half_of(flow), jnp.zeros(flow.event_shape)), random_params(flow))


def test_linear_measurements_and_several_anchors(random_params):
    flow = FLOWS["residual"]
    params, b = random_params(flow), jnp.zeros(2)
    measurement = observe.linear(np.eye(6)[:2] + 0.1)

    def drawn(p, b):
        known = measurement.pseudo_inverse(b)
        options = {"num_samples": 4, "solver": quick_solver(True)}
        one = draw_samples(KEY, flow, p, measurement.observation, known, partition="average", **options)
        several = draw_mixture(KEY, flow, p, measurement.observation, known, anchors=2, **options)
        return one, several, measurement.measure(one.samples[0])

    assert not rounded_products(drawn, params, b)


@pytest.mark.parametrize("estimator", ["nlade", "clade"])
def test_steps_of_fitted_posteriors(estimator, random_params):
    flow, family = FLOWS["residual"], householder(num_reflections=1)
    where, y = hidden(half_of(flow), 3), jnp.zeros(6)

    def bound(theta, params):
        start = reference(family, flow, params, where, y, "same")
        log_det = lambda y: ESTIMATORS[estimator]()(KEY, flow, params, where, y, None)  # noqa: E731
        return draw(jnp.ones(3), flow, params, where, y, family, theta, start, quick_solver(True), log_det).log_weight

    assert not rounded_products(jax.grad(bound), family.init(KEY, 3), random_params(flow))


def test_training_rounds_outside_of_solves_as_it_is_told(random_params):
    flow, network = FLOWS["residual"], DenseInference((4,))
    zeros, seen = jnp.zeros((2, 6)), jnp.asarray([[True] * 3 + [False] * 3] * 2)
    weights = network.init(KEY, zeros, seen)["params"]
    params = {"flow": random_params(flow), "network": weights, "head": fresh_head(KEY, (6,), 2)}
    posterior = Amortised(network, weights, jnp.zeros(6), jnp.ones(6))

    def found(precision):
        loss = joint_loss(
            flow, posterior, estimator=nlade(), solver=quick_solver(False), num_samples=1, noise=None, head_weight=1.0,
            precision=precision,
        )  # fmt: skip
        batch = IncompleteBatch(zeros, seen, jnp.zeros(2, int))
        return rounded_products(jax.grad(lambda p: loss(KEY, p, batch)["loss"]), params)

    assert not found("float32")
    # two layers of the network and the head's map, each with the gradients of both factors, but for the network's inputs
    assert sum("bfloat16" in product for product in found("bfloat16")) == 8
