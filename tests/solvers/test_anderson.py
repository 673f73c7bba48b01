"""Anderson mixing: against its textbook formula, against jaxopt's, and where columns degenerate."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.solvers.anderson import anderson_next, anderson_start
from jaxflows.solvers.fixed_point import iterate

mixed = jax.jit(anderson_next)


def _nonlinear(size=8):
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((size, size))
    matrix *= 0.9 / np.linalg.norm(matrix, 2)
    shift = rng.standard_normal(size)
    return matrix, shift


def test_each_step_is_the_least_squares_of_the_textbook():
    matrix, shift = _nonlinear()
    with jax.enable_x64(True):
        x, state, seen = jnp.zeros(8), anderson_start(jnp.zeros(8), 3), []
        for _ in range(7):
            r = jnp.tanh(matrix @ x) + shift - x
            seen.append((np.asarray(x), np.asarray(r)))
            x, state = mixed(state, x, r)
            window = seen[-4:]
            dx = np.diff([pair[0] for pair in window], axis=0)
            dr = np.diff([pair[1] for pair in window], axis=0)
            meant = window[-1][0] + window[-1][1]
            if len(window) > 1:
                gamma = np.linalg.lstsq(dr.T, window[-1][1], rcond=None)[0]
                meant = meant - gamma @ (dx + dr)
            np.testing.assert_allclose(x, meant, rtol=0, atol=1e-8)


def test_jaxopt_reaches_the_same_point_in_as_many_steps():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        jaxopt = pytest.importorskip("jaxopt")
    matrix, shift = _nonlinear(20)
    with jax.enable_x64(True):
        step = lambda x: jnp.tanh(matrix @ x) + shift  # noqa: E731
        ours, info = iterate(step, jnp.zeros(20), tol=1e-10, max_steps=100, history=5)
        oracle = jaxopt.AndersonAcceleration(step, history_size=5, tol=1e-10, maxiter=100, ridge=1e-12)
        theirs = oracle.run(jnp.zeros(20))
    np.testing.assert_allclose(ours, theirs.params, rtol=0, atol=1e-9)
    assert bool(info.converged)
    assert int(info.steps) <= 1.3 * int(theirs.state.iter_num) + 3


def test_a_linear_problem_is_solved_in_its_dimension():
    matrix, shift = _nonlinear(6)
    with jax.enable_x64(True):
        x, info = iterate(lambda x: matrix @ x + shift, jnp.zeros(6), tol=1e-9, max_steps=50, history=6)
    np.testing.assert_allclose(x, np.linalg.solve(np.eye(6) - matrix, shift), atol=1e-7)
    assert int(info.steps) <= 9


def test_repeated_iterates_leave_the_mixing_finite():
    state, x = anderson_start(jnp.zeros(3), 4), jnp.ones(3)
    for _ in range(6):
        nxt, state = mixed(state, x, jnp.full(3, 0.5))
        np.testing.assert_allclose(nxt, 1.5)


def test_a_history_longer_than_the_dimension_still_converges():
    x, info = iterate(lambda x: 0.5 * jnp.cos(x), jnp.zeros(2), tol=1e-6, max_steps=100, history=10)
    assert bool(info.converged)
    np.testing.assert_allclose(x, 0.5 * np.cos(x), atol=1e-6)
