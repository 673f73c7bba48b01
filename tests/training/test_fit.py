"""Maximum likelihood: what it learns, what it promises and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflows import flows
from jaxflows.log_det.estimators import exact, power_series
from jaxflows.training.evaluate import flow_log_likelihood, gaussian_log_likelihood
from jaxflows.training.fit import fit

FLOW = flows.residual(event_shape=(2,), blocks=4, hidden=16)
QUICK = {"epochs": 2, "batch_size": 32, "validation": 0.0, "progress": False}


def two_moons(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle, upper = np.pi * rng.random(count), rng.random(count) < 0.5
    x = np.where(upper, np.cos(angle), 1.0 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return (np.stack([x, y], 1) + 0.15 * rng.normal(size=(count, 2))).astype(np.float32)


DATA = two_moons(0, 128)


@pytest.fixture(scope="module")
def far():
    """A run on rows far from where a flow starts."""
    return fit(jax.random.key(3), FLOW, 1000.0 + DATA, **QUICK)


@pytest.mark.long
def test_a_trained_flow_beats_the_gaussian_and_keeps_its_bound():
    train, test = two_moons(1, 2048), two_moons(2, 1000)
    flow = flows.residual(event_shape=(2,), blocks=6, hidden=32)
    params, report = fit(
        jax.random.key(0), flow, train, epochs=20, batch_size=64, learning_rate=1e-2, estimator=exact(), ema_decay=0.99,
        progress=False,
    )  # fmt: skip
    ours = flow_log_likelihood(flow, params, test, batch_size=100)
    theirs = gaussian_log_likelihood(train.mean(0), np.cov(train, rowvar=False), test)
    assert ours.nats - theirs.nats > 5 * np.hypot(ours.std_error, theirs.std_error)
    assert report.steps == 20 * 28 == len(report.losses)
    assert report.stopped == "epochs"
    assert report.lipschitz == float(flow.bijector.lipschitz(params)) <= 0.95
    assert report.validation_steps.tolist() == list(range(28, 561, 28))
    assert report.validation_losses[-1] < report.validation_losses[0]


def test_the_same_key_gives_the_same_run(far):
    params, report = fit(jax.random.key(3), FLOW, 1000.0 + DATA, **QUICK)
    np.testing.assert_array_equal(report.losses, far[1].losses)
    jax.tree.map(np.testing.assert_array_equal, params, far[0])


def test_given_parameters_are_the_start_and_are_not_changed():
    params = jax.jit(FLOW.init)(jax.random.key(7))
    before = jax.tree.map(np.array, params)
    _, report = fit(jax.random.key(0), FLOW, DATA, params=params, estimator=exact(), **{**QUICK, "batch_size": 128})
    jax.tree.map(np.testing.assert_array_equal, params, before)
    start = -np.mean(jax.jit(jax.vmap(lambda y: FLOW.log_prob(params, y)))(DATA)) / 2
    np.testing.assert_allclose(report.losses[0], start, rtol=1e-5)


def test_the_start_is_fitted_to_the_data(far):
    assert far[1].losses[0] < 10.0


def test_patience_returns_the_best_average():
    held_out = two_moons(5, 64)
    options = {**QUICK, "validation": held_out, "epochs": 60, "estimator": exact(), "ema_decay": 0.0}
    # a rate this high makes the loss wander, so that a later validation is worse
    params, report = fit(jax.random.key(0), FLOW, DATA[:40], optimizer=optax.adam(0.3), patience=3, **options)
    assert report.stopped == "patience"
    assert len(report.validation_losses) - 1 - int(np.argmin(report.validation_losses)) == 3
    loss = -flow_log_likelihood(FLOW, params, held_out, batch_size=64).nats
    np.testing.assert_allclose(loss, report.validation_losses.min(), atol=2e-3)


def test_max_seconds_stops_early_and_another_key_gives_another_run(far):
    _, report = fit(jax.random.key(4), FLOW, 1000.0 + DATA, **{**QUICK, "epochs": 100000}, max_seconds=0.5)
    # the first loss is before any update: the start, the order of the rows and the probes are of the key
    assert report.losses[0] != far[1].losses[0]
    assert report.stopped == "max_seconds"
    assert 0.5 <= report.seconds < 60.0
    assert report.steps < 400000


def test_noise_reaches_every_batch_and_lets_integers_in():
    rows = np.random.default_rng(0).integers(0, 4, (64, 2))

    def dequantise(key: jax.Array, batch: jax.Array) -> jax.Array:
        return (batch + jax.random.uniform(key, batch.shape)) / 4

    params, report = fit(jax.random.key(0), FLOW, rows, noise=dequantise, **QUICK)
    assert np.isfinite(report.losses).all()
    # the uniform density on the square is 1: a nat a dimension below what rows left without noise would reach
    assert abs(flow_log_likelihood(FLOW, params, dequantise(jax.random.key(1), rows), batch_size=64).nats) < 1.0
    with pytest.raises(TypeError, match="pass noise="):
        fit(jax.random.key(0), FLOW, rows, **QUICK)


def test_one_row_and_half_precision_train():
    params, report = fit(jax.random.key(0), FLOW, DATA[:1].astype(np.float16), **{**QUICK, "validation": 0.1})
    assert report.steps == 2
    assert report.validation_losses.size == 0
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_a_loss_that_is_not_finite_stops_the_run(far):
    with pytest.raises(FloatingPointError, match="at step 0"):
        fit(jax.random.key(0), FLOW, DATA, noise=lambda key, batch: batch / 0.0, params=far[0], **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "expected epochs >= 1; got 0"),
        ({"batch_size": 0}, "expected batch_size >= 1; got 0"),
        ({"patience": 0, "validation": 0.1}, "expected patience >= 1; got 0"),
        ({"patience": 2}, "expected validation rows for patience"),
        ({"ema_decay": 1.0}, "expected 0 <= ema_decay < 1; got 1.0"),
        ({"max_seconds": 0.0}, "expected max_seconds > 0; got 0.0"),
        ({"optimizer": optax.adam(1e-3), "learning_rate": 1e-3}, "got both"),
        ({"validation": np.zeros((3, 5))}, r"expected validation of shape \(n, 2\); got \(3, 5\)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(jax.random.key(0), FLOW, DATA, **{**QUICK, **options})


def test_the_bar_goes_to_standard_error(capfd):
    fit(jax.random.key(0), FLOW, DATA, **{**QUICK, "progress": True}, estimator=power_series(terms=2))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "fit: 100%" in captured.err
    assert "loss" in captured.err
