"""Scalar roots: true defects on functions that break plain Newton, and derivatives of any order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.solvers.implicit_root import implicit_root
from jaxflows.solvers.inversion_report import report_inversion
from jaxflows.solvers.monotone_root import MAX_STEPS, monotone_root


def _steep(args, t):
    # Newton from a flat part of tanh jumps across the root, further each time
    return jnp.tanh(50.0 * (t - args)) + 1e-3 * (t - args)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_root_is_found_where_plain_newton_runs_away(dtype):
    with jax.enable_x64(True):
        roots = jnp.asarray(np.linspace(-3.0, 3.0, 41), dtype)
        found, steps = jax.jit(monotone_root(_steep))(roots, jnp.full(41, -10.0, dtype), jnp.full(41, 10.0, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, roots, rtol=0, atol=20 * jnp.finfo(dtype).eps)
        assert 5 < int(steps) < MAX_STEPS / 2
        # plain Newton from the same start
        t = jnp.zeros(41, dtype)
        for _ in range(20):
            defect, slope = jax.jvp(lambda s: _steep(roots, s), (t,), (jnp.ones_like(t),))
            t = t - defect / slope
        assert not np.allclose(t, roots, atol=1e-3)


@pytest.mark.parametrize("slope", [1e-3, 1.0, 1e6])
def test_it_ends_at_the_rounding_floor_of_shallow_and_steep_functions(slope):
    solve = jax.jit(monotone_root(lambda args, t: slope * (t**3 + t - args)))
    found, steps = solve(jnp.float32(10.0), jnp.float32(-5.0), jnp.float32(7.0))
    np.testing.assert_allclose(found, 2.0, rtol=5e-7 * max(1.0, 1.0 / slope))
    assert int(steps) < MAX_STEPS / 2


def test_a_root_at_an_end_and_an_empty_bracket_are_found():
    solve = jax.jit(monotone_root(lambda args, t: t - args))
    for low, high in ((1.0, 3.0), (-1.0, 1.0), (1.0, 1.0)):
        found, _ = solve(jnp.float32(1.0), jnp.float32(low), jnp.float32(high))
        np.testing.assert_allclose(found, 1.0, rtol=5e-7)


def test_nan_ends_and_is_reported_as_not_converged():
    found, steps = monotone_root(lambda args, t: t - args)(jnp.float32(jnp.nan), jnp.float32(-1.0), jnp.float32(1.0))
    assert int(steps) <= MAX_STEPS
    info = report_inversion(lambda args, t: t - args, jnp.float32(jnp.nan), found, jnp.float32(0.0), steps)
    assert not bool(info.converged)
    assert float(info.residual) == np.inf


def test_a_root_has_derivatives_of_first_and_second_order():
    def equation(args, t):
        return t**3 + t - args

    solve, implicit = monotone_root(equation), implicit_root(equation, lambda args, t, b: b / (3 * t**2 + 1))

    def root(a):
        fixed = jax.lax.stop_gradient(a)
        return implicit(a, solve(fixed, -jnp.abs(fixed), jnp.abs(fixed))[0])

    with jax.enable_x64(True):
        a = jnp.asarray(10.0)
        np.testing.assert_allclose(root(a), 2.0, rtol=1e-14)
        for derivative in (jax.grad(root), jax.jacfwd(root)):
            np.testing.assert_allclose(jax.jit(derivative)(a), 1 / 13, rtol=1e-13)
        # t' = 1 / (3 t^2 + 1), t'' = -6 t t'^3
        for second in (jax.grad(jax.grad(root)), jax.jacfwd(jax.grad(root))):
            np.testing.assert_allclose(jax.jit(second)(a), -12 / 13**3, rtol=1e-13)
