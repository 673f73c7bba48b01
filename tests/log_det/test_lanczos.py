"""Stochastic Lanczos quadrature against slogdet: the error bar, the truncation bound, breakdown and refusals."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.log_det.lanczos import stochastic_lanczos


def _matrix(size, spread, seed=0):
    """A random matrix with singular values between 1 - spread and 1 + spread."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return left @ np.diag(np.linspace(1 - spread, 1 + spread, size)) @ right


def _estimate(matrix, shape, **options):
    matrix = jnp.asarray(matrix)

    def run(key):
        forth = lambda w: (matrix @ w.reshape(-1)).reshape(w.shape)  # noqa: E731
        back = lambda w: (matrix.T @ w.reshape(-1)).reshape(w.shape)  # noqa: E731
        return stochastic_lanczos(forth, back, shape, key, **options)

    return jax.tree.map(float, jax.jit(run)(jax.random.key(0)))


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize("steps", [3, 12])
def test_the_value_is_right_within_its_error_and_bound(probe, steps):
    matrix = _matrix(24, 0.8)
    truth = np.linalg.slogdet(matrix)[1]
    with jax.enable_x64(True):
        seen = _estimate(matrix, (4, 6), steps=steps, probes=2000, probe=probe, condition=1.8 / 0.2)
    assert abs(seen.value - truth) <= 5 * seen.std_error + seen.truncation_bound
    assert seen.std_error < 0.1
    assert seen.truncation_bound < (8.0 if steps == 3 else 0.05)


def test_every_draw_of_signs_is_within_the_truncation_bound_of_its_quadratic_form():
    matrix = _matrix(16, 0.9)
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    logarithm = vectors @ np.diag(0.5 * np.log(values)) @ vectors.T
    with jax.enable_x64(True):
        key = jax.random.key(7)
        forth, back = (lambda w, a=a: jnp.asarray(a) @ w for a in (matrix, matrix.T))
        probe = np.asarray(jax.random.rademacher(jax.random.split(key, 1)[0], (16,), np.float64))
        for steps in (2, 9):
            run = functools.partial(stochastic_lanczos, forth, back, (16,), steps=steps, probes=1, condition=19.0)
            seen = jax.jit(run)(key)
            assert abs(float(seen.value) - probe @ logarithm @ probe) <= float(seen.truncation_bound)
            assert seen.std_error == np.inf


def test_a_restricted_operator_and_a_complete_krylov_space():
    # P_H G P_H + P_O: the log-determinant is that of the hidden block, whatever its size
    matrix = np.eye(8) + 0.4 * np.random.default_rng(3).standard_normal((8, 8)) / np.sqrt(8)
    hidden = np.asarray([1, 0, 1, 1, 0, 0, 1, 0], bool)
    restricted = np.where(np.outer(hidden, hidden), matrix, 0.0) + np.diag(~hidden)
    truth = np.linalg.slogdet(matrix[np.ix_(hidden, hidden)])[1]
    seen = _estimate(restricted.astype(np.float32), (8,), steps=50, probes=500)
    assert abs(seen.value - truth) <= 5 * seen.std_error
    assert seen.truncation_bound == 0.0


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_an_exhausted_krylov_space_is_exact(gain):
    # A^T A = gain^2 I: one step exhausts the space, the rest must add nothing
    seen = _estimate(gain * np.eye(6, dtype=np.float32), (6,), steps=5, probes=4)
    np.testing.assert_allclose(seen.value, 6 * np.log(gain), atol=1e-5)
    np.testing.assert_allclose(seen.std_error, 0.0, atol=1e-5)
    assert seen.truncation_bound == np.inf


def test_small_singular_values_keep_their_digits_in_float32():
    # squaring the operator would lose a singular value of 1e-5 under float32's 6e-8 of the largest, squared
    values = np.asarray([1.0, 1e-5, 0.5, 2.0])
    seen = _estimate(np.diag(values).astype(np.float32), (4,), steps=4, probes=2)
    np.testing.assert_allclose(seen.value, np.sum(np.log(values)), rtol=1e-3)


def test_a_singular_operator_has_no_volume():
    # exactly: of rank one, where the eigenvalue 0 has several vectors
    assert _estimate(np.ones((3, 3)) / 3, (3,), steps=3, probes=1).value < -20


def test_it_refuses_a_derivative_and_allows_a_stopped_one():
    def value(gain):
        act = lambda w: gain * w  # noqa: E731
        return stochastic_lanczos(act, act, (3,), jax.random.key(0), steps=2, probes=2).value

    with pytest.raises(ValueError, match="outside a gradient"):
        jax.grad(value)(2.0)
    slope = jax.grad(lambda gain: gain * value(jax.lax.stop_gradient(gain)))(2.0)
    assert float(slope) == pytest.approx(3 * np.log(2.0), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "got 0 and 8"),
        ({"probes": 0}, "got 20 and 0"),
        ({"condition": 0.5}, "expected condition >= 1; got 0.5"),
        ({"probe": "sphere"}, "got 'sphere'"),
    ],
)
def test_bad_options_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        stochastic_lanczos(lambda w: w, lambda w: w, (3,), jax.random.key(0), **options)
