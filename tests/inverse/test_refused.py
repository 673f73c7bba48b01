"""Who `infer` turns away, before any work."""

from __future__ import annotations

import numpy as np
import pytest

from jaxflows import flows, inverse, metrics, observe
from jaxflows.inverse import noise
from jaxflows.inverse.infer import infer
from jaxflows.measurements import entries
from tests.inverse.problems import KEY, MATRIX, VALUES, fitted_gaussian, problem, reading


def refused(message, **changes):
    flow, params = problem()
    arguments = {"flow": flow, "params": params, "measurement": reading("mala")} | changes
    with pytest.raises(ValueError, match=message):
        infer(KEY, **arguments)


LOGIT = flows.residual(event_shape=(3,), blocks=1, hidden=4, logit=True)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"expected a method of \['ambient', .*\], or one made by its factory; got 'magic'", {"method": "magic"}),
        ("expected num_samples >= 1; got 0", {"num_samples": 0}),
        (
            r"expected a measurement of events of shape \(3,\); got one of \(4,\)",
            {"measurement": inverse.noisy_measurement(observe.linear(np.eye(4)[:1]), [0.0])},
        ),
        (
            r"expected as many measurements as the operator makes of an event, \(3,\); got \(2,\)",
            {"measurement": inverse.noisy_measurement(lambda y: y**2, [0.0, 1.0])},
        ),
        (
            "method 'constraint' cannot serve this: expected a linear measurement; got a function",
            {"measurement": inverse.noisy_measurement(lambda y: y**2, [0.0, 1.0, 1.0])},
        ),
        (
            "'constraint' cannot serve this: expected a measurement without noise or with Gaussian noise",
            {"measurement": inverse.noisy_measurement(observe.linear(MATRIX), VALUES, noise=noise.laplace(0.1))},
        ),
        ("'constraint' cannot serve this: expected a flow without a logit .*train with logit=False", {"flow": LOGIT}),
        ("'ambient' cannot serve this: expected a flow whose events may be any numbers", {"flow": LOGIT, "method": "ambient"}),
        (
            r"'gaussian' cannot serve this: expected the Gaussian of the training data, `inverse.gaussian\(.*; got none",
            {"method": "gaussian"},
        ),
        (
            r"'gaussian' cannot serve this: expected a Gaussian of events of shape \(3,\); got one of \(28, 28\)",
            {"method": inverse.gaussian(metrics.load_mnist_gaussian())},
        ),
        ("'amortised' cannot serve this: expected a pre-generator that was trained.*; got none", {"method": "amortised"}),
        (
            "'gaussian' cannot serve this: expected a linear measurement; got a function",
            {
                "method": inverse.gaussian(fitted_gaussian()),
                "measurement": inverse.noisy_measurement(lambda y: y**2, [0.0, 1.0, 1.0]),
            },
        ),
        (
            "'sparse' cannot serve this: expected a measurement without noise or with Gaussian noise",
            {
                "method": "sparse",
                "measurement": inverse.noisy_measurement(observe.linear(MATRIX), VALUES, noise=noise.laplace(0.1)),
            },
        ),
        ("'sparse' cannot .*: expected the basis 'dct' or an orthogonal wavelet", {"method": inverse.sparse(basis="bior2.2")}),
        ("'sparse' cannot .*: expected events with even sides of at least 8", {"method": inverse.sparse(basis="haar")}),
        ("'plmcmc' cannot serve this: expected entries of the event", {"method": "plmcmc"}),
        (
            "'plmcmc' cannot serve this: expected entries without noise",
            {
                "method": "plmcmc",
                "measurement": inverse.noisy_measurement(
                    entries(np.array([True, False, False])), [0.0], noise=noise.gaussian(0.1)
                ),
            },
        ),
    ],
)
def test_what_cannot_be_served_is_said_before_any_work(message, changes):
    refused(message, **changes)


def test_without_blackjax_its_methods_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(r"'nuts' cannot serve this: expected blackjax to be installed, `pip install jaxflows\[mcmc\]`", method="nuts")
    refused(
        r"'sparse' cannot serve this: expected scikit-learn to be installed, `pip install jaxflows\[sparse\]`", method="sparse"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inverse.langevin(steps=0), "expected steps > 0; got 0"),
        (lambda: inverse.langevin(temperature=0.5), "expected temperature >= 1; got 0.5"),
        (lambda: inverse.mala(acceptance=1.0), r"expected acceptance in \(0, 1\); got 1.0"),
        (lambda: inverse.csgm(penalty=-1.0), "expected penalty >= 0; got -1.0"),
        (lambda: inverse.csgm(start_scale=-1.0), "expected start_scale >= 0; got -1.0"),
        (lambda: inverse.most_probable(sigma=0.0), "expected sigma > 0; got 0.0"),
        (lambda: inverse.asim(memory=0), "expected memory > 0; got 0"),
        (lambda: inverse.plmcmc(independent=1.5), r"expected independent in \[0, 1\]; got 1.5"),
        (lambda: inverse.pregenerator(learning_rate=0.0), "expected learning_rate > 0; got 0.0"),
        (lambda: inverse.ambient(num_draws=0), "expected num_draws > 0; got 0"),
        (lambda: inverse.sparse(penalty=0.0), "expected penalty > 0; got 0.0"),
        (lambda: inverse.hmc(leapfrogs=0), "expected leapfrogs > 0; got 0"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
