"""The network of the hardness proof does what the proof says, and the flow's conditional samples find solutions or not."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from jaxflows.conditional.diagnostics import resample
from jaxflows.hardness import (
    default_epsilon,
    formula,
    near_assignment,
    planted_formula,
    sat_flow,
    sat_network,
    satisfies,
    sufficient_magnitude,
)

FORMULAS = {
    "one literal": formula(1, [(-1,)]),
    "two": formula(2, [(1, 2), (-1, 2)]),
    "mixed widths": formula(4, [(1, -2, 3), (2,), (-3, 4), (-1, 2, -3, 4)]),
    "a variable that does not occur": formula(3, [(1, -3)]),
    "planted 3-SAT": planted_formula(0, 6, 18),
    "no solution": formula(3, itertools.product((-1, 1), (-2, 2), (-3, 3))),
}


def reference(problem, x, epsilon):
    """f_1 by the definition, in exact float64 hats, one point at a time."""
    hat = lambda t: max(0.0, 1.0 - abs(t - 1.0) / epsilon)  # noqa: E731
    tilde = [hat(t) - hat(-t) for t in x]
    total = 0.0
    for clause in problem.clauses:
        for signs in itertools.product((-1, 1), repeat=len(clause)):
            if any(sign == np.sign(literal) for sign, literal in zip(signs, clause, strict=True)):
                values = [sign * tilde[abs(literal) - 1] for sign, literal in zip(signs, clause, strict=True)]
                total += hat(sum(values) / len(clause))
    return max(0.0, total - (len(problem.clauses) - 1))


def every_assignment(size):
    return np.array(list(itertools.product((-1.0, 1.0), repeat=size)), np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_exactly_m_at_solutions_and_exactly_zero_elsewhere(name, dtype):
    problem = FORMULAS[name]
    with jax.enable_x64(dtype == jnp.float64):
        network = jax.jit(jax.vmap(sat_network(problem)))
        every = every_assignment(problem.variables)
        assert np.asarray(17.0 * network(jnp.asarray(every, dtype))).tolist() == (17.0 * satisfies(problem, every)).tolist()
        # every point of a grid finer than the hats, far ones too
        axis = (-5.0, -1.0, -0.7, 0.0, 0.4, 1.0, 1.9) if problem.variables <= 4 else (-1.0, 0.1, 1.0)
        grid = np.array(list(itertools.product(axis, repeat=problem.variables)), np.float32)
        inside = near_assignment(problem, grid) & satisfies(problem, grid)
        values = np.asarray(network(jnp.asarray(grid, dtype)))
        assert np.all(values[~inside] == 0.0)
        assert np.all((values >= 0.0) & (values <= 1.0))


@pytest.mark.parametrize("name", ["mixed widths", "planted 3-SAT", "a variable that does not occur"])
def test_it_is_the_function_of_the_definition(name):
    problem = FORMULAS[name]
    eps = default_epsilon(problem)
    rng = np.random.default_rng(0)
    solution = every_assignment(problem.variables)[satisfies(problem, every_assignment(problem.variables))][0]
    radii = eps**2 / len(problem.clauses) * rng.uniform(0.0, 2.0, (200, 1))
    points = (solution + radii * rng.uniform(-1.0, 1.0, (200, problem.variables))).astype(np.float32)
    points = np.concatenate([points, rng.standard_normal((200, problem.variables)).astype(np.float32)])
    expected = np.array([reference(problem, point.astype(float), eps) for point in points])
    found = np.asarray(jax.jit(jax.vmap(sat_network(problem)))(points))
    assert np.sum(expected > 0) > 20
    # rounding of x of 1e-7, steepened by 1 / eps^2 in each of m clauses
    np.testing.assert_allclose(found, expected, atol=1e-6 * len(problem.clauses) / eps**2)


@pytest.mark.parametrize("epsilon", [1 / 3, 0.3, 0.1])
def test_other_epsilons_hold_up_to_rounding(epsilon):
    problem = FORMULAS["planted 3-SAT"]
    every = every_assignment(problem.variables)
    values = np.asarray(jax.vmap(sat_network(problem, epsilon))(every))
    rounding = 10 * len(problem.clauses) * np.finfo(np.float32).eps / epsilon**2
    np.testing.assert_allclose(values, satisfies(problem, every), atol=rounding)


def test_epsilon_above_one_over_k_breaks_the_proof_and_is_refused():
    problem = formula(3, [(1, 2, 3)])
    # x_3 is far from -1 and 1, yet the neurons of (1, 1, -1) and (1, 1, 1) are both active
    assert reference(problem, (1.0, 1.0, 0.0), 1 / 3) == 0.0
    assert reference(problem, (1.0, 1.0, 0.0), 0.4) == pytest.approx(2 * (1 - 1 / 3 / 0.4))
    with pytest.raises(ValueError, match=r"expected 0 < epsilon <= 1/3, one over the widest clause; got 0\.4"):
        sat_network(problem, 0.4)
    with pytest.raises(ValueError, match="got 0"):
        sat_network(problem, 0.0)
    with pytest.raises(ValueError, match="expected a formula with a clause that is not always true; got none"):
        sat_network(formula(2, [(1, -1)]))


def test_the_radius_of_half_the_height_is_not_the_one_printed():
    problem = FORMULAS["planted 3-SAT"]
    clauses, eps = len(problem.clauses), 1 / 3
    every = every_assignment(6)
    solution = every[satisfies(problem, every)][0]
    corners = solution * (1 + every)
    at = jax.vmap(sat_network(problem, eps))
    inside = np.asarray(at(jnp.asarray(solution + (corners - solution) * eps**2 / (2 * clauses))))
    printed = np.asarray(at(jnp.asarray(solution + (corners - solution) / (2 * clauses))))
    assert np.all(inside >= 0.5 - 1e-4)
    assert np.all(printed == 0.0)


def test_the_sufficient_magnitude_suffices():
    problem = FORMULAS["two"]
    magnitude = sufficient_magnitude(problem, failure=1e-3)
    axis = np.arange(-3, 3, 0.01, dtype=np.float32) + 0.005
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    height = magnitude * np.asarray(jax.jit(jax.vmap(sat_network(problem)))(points), np.float64)
    density = np.exp(-0.5 * np.sum(points.astype(float) ** 2, axis=1) - 0.5 * (magnitude - height) ** 2)
    share = np.sum(density[near_assignment(problem, points) & satisfies(problem, points)]) / np.sum(density)
    assert 1 - 1e-3 <= share < 1
    with pytest.raises(ValueError, match="expected a failure probability between 0 and 1; got 0"):
        sufficient_magnitude(problem, failure=0)


def test_the_flow_is_an_additive_coupling():
    problem = FORMULAS["mixed widths"]
    flow, params = sat_flow(problem, magnitude=9.0)
    y = jnp.array([1.0, 1.0, -1.0, 1.0, 9.5])
    assert flow.event_shape == (5,)
    np.testing.assert_array_equal(flow.encode(params, y), jnp.array([1.0, 1.0, -1.0, 1.0, 0.5]))
    np.testing.assert_array_equal(flow.decode(params, flow.encode(params, y))[0], y)
    assert float(flow.bijector.forward(params, y)[1]) == 0.0
    # M is a parameter
    assert float(jax.grad(lambda p: flow.encode(p, y)[-1])(params)["magnitude"]) == -1.0
    assert float(sat_flow(problem)[1]["magnitude"]) == pytest.approx(sufficient_magnitude(problem))


def share_of_solutions(problem, draws):
    flow, params = sat_flow(problem)
    size = problem.variables
    rows = np.full((1, size + 1), np.nan, np.float32)
    rows[0, -1] = params["magnitude"]
    result = jf.complete(jax.random.key(0), flow, params, rows, np.isfinite(rows), num_samples=draws, progress=False)
    assert result.info.converged[0] == 1.0
    picked = np.asarray(resample(jax.random.key(1), result.samples[0], jnp.asarray(result.log_weights[0]), 1000))[:, :size]
    return np.mean(near_assignment(problem, picked) & satisfies(problem, picked)), result.info.ess[0] / draws


@pytest.mark.long
def test_a_small_formula_is_solved_by_conditioning_with_weights_that_warn():
    share, effective = share_of_solutions(FORMULAS["two"], draws=8192)
    assert share > 0.99
    # few draws count: the diagnostics say that the posterior missed most of the target
    assert effective < 0.2


@pytest.mark.long
def test_beyond_a_few_variables_no_solution_is_found_and_no_weight_can_tell():
    problem = FORMULAS["planted 3-SAT"]
    share, effective = share_of_solutions(problem, draws=2048)
    assert share == 0.0
    # every draw missed, so all are equal: an effective sample size vouches only for what was visited
    assert effective == pytest.approx(1.0, abs=2.0**-12)
