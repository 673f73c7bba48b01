"""Fixed points: the error they promise, the failures they must report, and derivatives of every order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from jaxflows.solvers.fixed_point import PATIENCE, default_tolerance, fixed_point, iterate
from tests.rounded_products import rounded_products


@pytest.mark.parametrize("gain", [0.5, 0.9, 0.97])
@pytest.mark.parametrize(("dtype", "tol"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("history", [0, 5])
def test_the_error_meets_the_tolerance_where_the_common_code_errs_by_a_tenth(gain, dtype, tol, history):
    with jax.enable_x64(dtype == "float64"):
        u = jnp.asarray([0.3, -0.7, 0.11], dtype)
        solve = fixed_point(lambda v, t: v + gain * t, contraction=gain, history=history, max_steps=2000)
        x, info = solve((1.0 - gain) * u, jnp.zeros_like(u))
        assert x.dtype == dtype
        assert bool(info.converged)
        np.testing.assert_allclose(x, u, rtol=0, atol=tol)


def test_without_a_contraction_constant_the_residual_alone_is_promised():
    x, info = fixed_point(lambda v, t: v + 0.97 * t, history=0, max_steps=2000)(jnp.float32(0.03), jnp.float32(0.0))
    assert bool(info.converged)
    assert abs(float(0.03 + 0.97 * x - x)) <= 1e-5
    assert abs(float(x) - 1.0) > 1e-5


def test_a_tolerance_below_rounding_stops_early_and_says_so():
    step = lambda x: 0.5 * jnp.cos(3.0 * x) + jnp.asarray([0.1, 7.7, 130.3])  # noqa: E731
    _, info = iterate(step, jnp.zeros(3), tol=1e-12, max_steps=10_000, history=0)
    assert not bool(info.converged)
    assert int(info.steps) < 200
    x, info = iterate(lambda x: 0.9 * x + jnp.asarray([0.1, 7.7]), jnp.zeros(2), tol=1e-12, max_steps=10_000, history=0)
    assert int(info.steps) < 1000
    assert float(info.residual) <= 1e-4
    assert float(jnp.max(jnp.abs(x - jnp.asarray([1.0, 77.0])))) < 1e-3


def test_running_out_of_steps_is_reported():
    x, info = iterate(lambda x: 0.99 * x + 0.01, jnp.zeros(2), tol=1e-6, max_steps=7, history=0)
    assert int(info.steps) == 7
    assert not bool(info.converged)
    np.testing.assert_allclose(float(info.residual), 0.01 * 0.99**6, rtol=1e-4)
    # the iterate returned is the one whose residual is reported
    np.testing.assert_allclose(float(jnp.max(jnp.abs(0.99 * x + 0.01 - x))), float(info.residual), rtol=1e-5)


@pytest.mark.parametrize("history", [0, 5])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_bad_input_terminates_and_is_flagged(bad, history):
    x, info = fixed_point(lambda v, t: v - 0.5 * jnp.tanh(t), history=history)(jnp.asarray([0.1, bad]), jnp.zeros(2))
    assert not bool(info.converged)
    assert int(info.steps) <= PATIENCE + 1
    assert x.shape == (2,)


def test_rows_of_a_batch_stop_apart():
    solve = fixed_point(lambda v, t: v - 0.5 * t)
    rows = jnp.asarray([[1.0, 2.0], [jnp.nan, 0.0], [0.0, 0.0]])
    x, info = jax.vmap(solve)(rows, jnp.zeros_like(rows))
    np.testing.assert_array_equal(info.converged, [True, False, True])
    np.testing.assert_allclose(x[0], rows[0] / 1.5, atol=1e-5)
    assert int(info.steps[2]) == 1


def test_the_default_tolerance_follows_the_dtype():
    assert default_tolerance(jnp.float32) == 1e-5
    assert default_tolerance(jnp.float64) == 1e-11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "expected tol > 0; got 0.0"),
        ({"max_steps": 0}, "got 0 and 5"),
        ({"history": -1}, "got 500 and -1"),
        ({"contraction": 1.0}, "expected 0 <= contraction < 1; got 1.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fixed_point(lambda a, x: x, **options)


# the cases of jaxopt's tests/fixed_point_iteration_test.py, broyden_test.py and anderson_test.py


def test_three_contractions_at_once_reach_zero():
    x, info = fixed_point(lambda gains, x: gains * x, tol=1e-6, max_steps=200)(
        jnp.asarray([0.9, 0.99, 0.999]), jnp.asarray([1.0, -3.0, 2.0])
    )
    assert bool(info.converged)
    np.testing.assert_allclose(x, 0.0, atol=1e-4)


def test_the_cosine_fixed_points():
    dottie = brentq(lambda x: np.cos(x) - x, 0.0, 1.0, xtol=1e-15)
    assert abs(dottie - 0.73908614842288) < 1e-5
    with jax.enable_x64(True):
        x, info = fixed_point(lambda shift, x: jnp.cos(x) + shift)(jnp.float64(0.0), jnp.float64(1.0))
        assert bool(info.converged)
        np.testing.assert_allclose(x, dottie, atol=1e-11)
        # at pi/2 the slope is -1: no contraction, plain iteration cycles, the mixed one arrives
        shift, start = jnp.float64(np.pi / 2), jnp.float64(2.0)
        mixed, info = fixed_point(lambda shift, x: jnp.cos(x) + shift, tol=1e-8)(shift, start)
        assert bool(info.converged)
        np.testing.assert_allclose(mixed, np.pi / 2, atol=1e-6)


def _rotation_case():
    angles = np.linspace(0.3, 2.9, 7)
    matrix = np.zeros((14, 14))
    for block, angle in enumerate(angles):
        rows = slice(2 * block, 2 * block + 2)
        matrix[rows, rows] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix, np.arange(14) / 7.0


def test_a_rotation_needs_anderson_and_banach_says_that_it_failed():
    matrix, centre = (jnp.asarray(a, jnp.float32) for a in _rotation_case())
    start = jnp.zeros(14)
    step = lambda x: centre + matrix @ (x - centre)  # noqa: E731
    _, plain = iterate(step, start, tol=1e-4, max_steps=300, history=0)
    assert not bool(plain.converged)
    x, mixed = iterate(step, start, tol=1e-4, max_steps=300, history=15)
    assert bool(mixed.converged)
    np.testing.assert_allclose(x, centre, atol=1e-3)


def test_a_large_affine_contraction_and_all_its_derivatives():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((200, 200))
    matrix *= 0.9 / np.linalg.norm(matrix, 2)
    shift, weights = rng.standard_normal((2, 200))
    with jax.enable_x64(True):
        solve = fixed_point(lambda args, x: args[0] @ x + args[1], contraction=0.9)

        def value(matrix, shift):
            return weights @ solve((matrix, shift), jnp.zeros(200))[0]

        seen, (by_matrix, by_shift) = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(matrix, jnp.asarray(shift))
        by_shift_alone = jax.jit(lambda s: jax.jvp(lambda t: value(matrix, t), (s,), (jnp.ones(200),))[1])
        forward = by_shift_alone(jnp.asarray(shift))
    x = np.linalg.solve(np.eye(200) - matrix, shift)
    adjoint = np.linalg.solve(np.eye(200) - matrix.T, weights)
    np.testing.assert_allclose(seen, weights @ x, atol=1e-9)
    np.testing.assert_allclose(by_shift, adjoint, atol=1e-9)
    np.testing.assert_allclose(by_matrix, np.outer(adjoint, x), atol=1e-8)
    np.testing.assert_allclose(forward, np.sum(adjoint), atol=1e-8)


@pytest.mark.long
def test_the_second_derivative_of_the_square_root_under_vmap():
    # x = x + (t - x^2)/10 at x = sqrt(t): fax, implicit/twophase_test.py
    with jax.enable_x64(True):
        root = fixed_point(lambda t, x: x + 0.1 * (t - x**2))
        t = jnp.asarray([1.0, 2.0, 3.0])

        def value(t):
            return root(t, jnp.ones(()))[0]

        slope = jax.grad(value)
        values, slopes, curvatures = jax.jit(jax.vmap(lambda t: (value(t), slope(t), jax.grad(slope)(t))))(t)
        np.testing.assert_allclose(values, np.sqrt(t), atol=1e-9)
        np.testing.assert_allclose(slopes, 0.5 * t**-0.5, atol=1e-9)
        np.testing.assert_allclose(curvatures, -0.25 * t**-1.5, atol=1e-8)


def test_the_start_carries_no_gradient_and_matrix_products_run_at_full_precision():
    solve = fixed_point(lambda a, x: a @ jnp.tanh(x))
    matrix = 0.3 * jnp.eye(3)
    assert not np.any(jax.grad(lambda start: jnp.sum(solve(matrix, start)[0]))(jnp.ones(3)))
    assert not rounded_products(lambda a: solve(a, jnp.ones(3))[0], matrix)
    assert rounded_products(lambda a: a @ jnp.ones(3), matrix)


def test_a_slow_contraction_is_not_taken_for_stagnation():
    # each step gains 0.3%: no single one is a tenth, and yet the solve gets there
    _, info = iterate(lambda x: 0.997 * x + 0.003, jnp.zeros(2), tol=1e-5, max_steps=5000, history=0)
    assert bool(info.converged)
    assert int(info.steps) > 1000


def test_second_derivatives_survive_a_scan_inside_the_step():
    # jax 0.9.2 loses part of the gradient of a linearised scan; two scanned layers of x <- tanh(a x) / 2 + a / 4
    def layers(a, x, scanned):
        one = lambda t, gain: (0.5 * jnp.tanh(gain * t) + 0.25 * gain, None)  # noqa: E731
        if scanned:
            return jax.lax.scan(one, x, jnp.stack([a, 2 * a]))[0]
        return one(one(x, a)[0], 2 * a)[0]

    def derivatives(scanned):
        solve = fixed_point(lambda a, x: layers(a, x, scanned))
        value = lambda a: solve(a, jnp.zeros(()))[0]  # noqa: E731
        slope = jax.grad(value)
        return jax.jit(lambda a: (value(a), slope(a))), jax.jit(jax.grad(slope))

    with jax.enable_x64(True):
        seen = []
        for scanned in (True, False):
            first, second = derivatives(scanned)
            seen.append([*map(float, first(0.6)), float(second(0.6))])
        np.testing.assert_allclose(seen[0], seen[1], rtol=1e-8)
        step = 1e-4
        difference = (first(0.6 + step)[1] - first(0.6 - step)[1]) / (2 * step)
        np.testing.assert_allclose(seen[0][2], difference, rtol=1e-5)
