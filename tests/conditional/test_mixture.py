"""Mixtures of anchors: the evidence whatever the solver reaches, both modes, and input that does not fit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of, linear_flow
from jaxflows.adapters import from_functions
from jaxflows.conditional import posteriors
from jaxflows.conditional.complete import complete
from jaxflows.conditional.mixture import draw_mixture
from jaxflows.observation import mask
from jaxflows.solvers.chord import chord

KEY = jax.random.key(0)
WIDTH, MIDDLE = 0.3, 0.3


@functools.cache
def parabola():
    """y_1 = 2 (y_2 - 0.3)^2 + 0.3 e: given y_1 = 2 there are two modes, near y_2 = 1.3 and near y_2 = -0.7."""
    return from_functions(
        event_shape=(2,),
        encode=lambda p, y: jnp.stack([(y[0] - 2 * (y[1] - MIDDLE) ** 2) / p["width"], y[1]]),
        decode=lambda p, x: jnp.stack([2 * (x[1] - MIDDLE) ** 2 + p["width"] * x[0], x[1]]),
        log_det=lambda p, y: -jnp.log(p["width"]),
        params={"width": jnp.asarray(WIDTH)},
    )


@functools.cache
def quadrature():
    """log p(y_1 = 2) and the share of the upper mode."""
    grid = np.linspace(-5, 5, 20_001)
    p = np.exp(-0.5 * (grid**2 + ((2 - 2 * (grid - MIDDLE) ** 2) / WIDTH) ** 2)) / (2 * np.pi * WIDTH)
    return np.log(p.sum() * (grid[1] - grid[0])), p[grid > MIDDLE].sum() / p.sum()


@pytest.mark.long
def test_one_anchor_sees_one_mode_and_several_see_both():
    row, observed = np.array([[2.0, np.nan]], np.float32), np.array([[True, False]])
    log_evidence, upper_share = quadrature()
    one = complete(KEY, *parabola(), row, observed, num_samples=400, partition="tangent", progress=False)
    # one draw of 400 may jump over: what it finds weighs little
    assert np.exp(one.info.iw_bound[0] - log_evidence) == pytest.approx(1 - upper_share, abs=0.05)

    both = complete(KEY, *parabola(), row, observed, num_samples=400, anchors=6, progress=False)
    weights = np.exp(both.log_weights[0].astype(float) - log_evidence)
    error = weights.std() / np.sqrt(400)
    assert abs(weights.mean() - 1) < 5 * error
    assert error < 0.05
    upper = np.where(both.samples[0, :, 1] > MIDDLE, weights, 0.0)
    assert abs(upper.mean() - upper_share) < 5 * upper.std() / np.sqrt(400)
    assert (both.samples[0, :, 0] == 2.0).all()
    assert both.info.ess[0] > 200
    assert list(both.info.partition) == ["tangent"]


@pytest.mark.long
def test_weights_of_an_affine_flow_average_to_its_evidence():
    flow, params = linear_flow(4, seed=0)
    mean, covariance = gaussian_of(flow, params)
    observed, y = jnp.array([True, False, True, False]), jnp.array([0.4, 0.0, -0.7, 0.0])
    options = {"num_samples": 400, "anchors": 3, "max_hidden": 3, "solver": chord()}
    draws = jax.jit(lambda k: draw_mixture(k, flow, params, mask(observed), y, **options))(KEY)
    seen = np.flatnonzero(observed)
    part, gap = covariance[np.ix_(seen, seen)], np.asarray(y)[seen] - mean[seen]
    evidence = -0.5 * gap @ np.linalg.solve(part, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * part)[1]
    weights = np.exp(np.asarray(draws.log_weights, float) - evidence)
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(400)
    # three in four are of the exact posterior; the Student draws cost little
    assert draws.report.ess > 0.8 * 400
    assert draws.solve.converged == 1
    np.testing.assert_array_equal(draws.samples[:, seen], np.broadcast_to(y[seen], (400, 2)))


@pytest.mark.long
def test_without_weights_the_modes_are_shared_out_by_their_evidence_and_less_is_solved():
    row, observed = np.array([[2.0, np.nan]], np.float32), np.array([[True, False]])
    _, upper_share = quadrature()
    options = {"num_samples": 400, "anchors": 6, "progress": False}
    plain = complete(KEY, *parabola(), row, observed, weighted=False, **options)
    # Laplace's shares, of modes that are nearly Gaussian
    upper = plain.samples[0, :, 1] > MIDDLE
    assert abs(upper.mean() - upper_share) < 5 * np.sqrt(upper_share * (1 - upper_share) / 400) + 0.05
    assert (plain.samples[0, :, 0] == 2.0).all()
    assert np.isnan(plain.info.ess[0])
    assert set(plain.log_weights[0]) <= {0.0, -np.inf}
    weighed = complete(KEY, *parabola(), row, observed, **options)
    assert plain.info.evaluations[0] < 0.5 * weighed.info.evaluations[0]


def test_anchors_are_checked():
    row, observed = np.zeros((1, 2), np.float32), np.array([[True, False]])
    with pytest.raises(ValueError, match="expected anchors >= 1; got 0"):
        complete(KEY, *parabola(), row, observed, anchors=0)
    for options in ({"posterior": posteriors.prior()}, {"partition": "same"}):
        with pytest.raises(ValueError, match="expected no posterior and no partition but the tangent"):
            complete(KEY, *parabola(), row, observed, anchors=2, **options)
