"""Gaussian noise as a part of the event: exact on affine flows, and the sweep still sweeps."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of, linear_flow, measured_of
from jaxflows import flows
from jaxflows.bijectors.beside import beside, extend
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.inverse.noise_extension import extended_flow, extended_measurement, log_volume, operator_matrix
from jaxflows.measurements import entries
from jaxflows.observation import linear
from jaxflows.solvers.boundary_sweep import boundary_sweep

ROWS = np.random.default_rng(0).standard_normal((5, 5))
CASES = {
    "three rows, three widths": (linear(ROWS[:3]), np.array([0.01, 0.3, 1.0])),
    "as many rows as entries": (linear(ROWS), 0.3),
    "entries": (entries(np.array([True, False, True, True, False])), 0.1),
}


@functools.cache
def program(whole):
    """``(params, where, known) -> reference``: one for cases of as many measurements."""
    return jax.jit(lambda p, w, y: gauss_newton_reference(whole, p, w, y))


@pytest.mark.parametrize("case", CASES)
def test_gauss_newton_is_the_posterior_of_an_affine_flow_under_gaussian_noise(case):
    operator, sigma = CASES[case]
    flow, params = linear_flow(5, seed=1)
    matrix = operator_matrix(operator).astype(float)
    values = np.random.default_rng(1).standard_normal(len(matrix))
    extended = extended_measurement(operator, sigma)
    where = hidden(extended.observation, 5)
    known = extended.pseudo_inverse(jnp.asarray(values, jnp.float32))
    whole = extended_flow(flow, len(matrix))
    reference = program(whole)(params, where, known)
    centre, spread, _ = measured_of(*gaussian_of(flow, params), matrix, sigma, values)
    basis = np.asarray(jax.vmap(where.expand)(jnp.eye(5)), float).T[:5]
    factor = basis @ np.asarray(reference.spread, float)
    np.testing.assert_allclose(reference.anchor[:5], centre, rtol=0, atol=1e-5 * np.abs(centre).max())
    np.testing.assert_allclose(factor @ factor.T, spread, rtol=0, atol=1e-5 * np.abs(spread).max())


def test_the_volume_is_that_of_the_operator():
    operator, _ = CASES["three rows, three widths"]
    np.testing.assert_allclose(log_volume(operator), 0.5 * np.linalg.slogdet(ROWS[:3] @ ROWS[:3].T)[1], atol=1e-5)
    np.testing.assert_allclose(log_volume(CASES["entries"][0]), 0.0, atol=1e-6)


def _kinds(spec):
    kinds = [spec["bijector"]]
    for key in ("layers", "body", "inner"):
        inner = spec.get(key, [])
        kinds += [kind for part in (inner if isinstance(inner, list) else [inner]) for kind in _kinds(part)]
    return kinds


def test_every_layer_is_extended_for_itself_and_parameters_are_kept(random_params):
    flow = flows.residual_image(event_shape=(4, 4, 1), blocks=1, channels=(2, 2), kernels=(1, 1, 1))
    whole = extend(flow.bijector, flow.event_shape, 3)
    kinds = _kinds(json.loads(whole.spec))
    assert kinds.count("scan_chain") == 2
    assert all(inner in ("residual_conv", "squeeze", "actnorm", "chain", "scan_chain", "beside") for inner in kinds)
    assert "beside" in _kinds(json.loads(whole.spec)["layers"][-1])
    params = random_params(flow)
    assert jax.tree.structure(jax.eval_shape(lambda k: whole.init(k, (19,)), jax.random.key(0))) == jax.tree.structure(params)
    u = jax.random.normal(jax.random.key(0), (19,))
    image, log_det = jax.jit(whole.forward)(params, u)
    meant, meant_log_det = jax.jit(flow.bijector.forward)(params, u[:16].reshape(4, 4, 1))
    np.testing.assert_allclose(image, np.concatenate([meant.reshape(-1), u[16:]]), atol=1e-6)
    np.testing.assert_allclose(log_det, meant_log_det, atol=1e-6)


def test_the_boundary_sweep_solves_the_extended_constraint_of_a_bent_flow(random_params):
    flow = flows.implicit(event_shape=(2, 2), blocks=2, hidden=6)
    params = random_params(flow)
    whole = extended_flow(flow, 2)
    extended = extended_measurement(linear(ROWS[:2, :4], (2, 2)), 0.2)
    b, x_hidden = jnp.array([0.5, -0.4]), jax.random.normal(jax.random.key(1), (6,))
    solution, info = jax.jit(lambda p: boundary_sweep()(whole, p, extended.observation, extended.pseudo_inverse(b), x_hidden))(
        params
    )
    assert bool(info.converged)
    y, e = solution.y[:4], solution.y[4:]
    np.testing.assert_allclose(ROWS[:2, :4] @ y + 0.2 * e, b, atol=1e-5)
    x = jnp.concatenate([flow.encode(params, y.reshape(2, 2)).reshape(-1), e])
    np.testing.assert_allclose(extended.observation.hidden_part(x - x_hidden), 0.0, atol=2e-4)


def test_options_are_checked():
    layer = flows.residual(event_shape=(3,), blocks=1, hidden=4).bijector
    with pytest.raises(ValueError, match="expected extra >= 1; got 0"):
        beside(layer, event_shape=(3,), extra=0)
    with pytest.raises(ValueError, match=r"expected flat events of 3 \+ 2 entries; got shape \(3, 2\)"):
        beside(layer, event_shape=(3,), extra=2).output_shape((3, 2))
