"""The bound's gradient: CLADE and NLADE against the exact one, in standard errors, and the path derivative."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import flows
from jaxflows.conditional import elbo, posteriors
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden
from jaxflows.log_det.estimators import power_series, russian_roulette
from jaxflows.observation import linear, mask
from jaxflows.solvers.boundary_sweep import boundary_sweep

DRAWS = 1000
FLOW = flows.residual(event_shape=(5,), blocks=2, hidden=8, coeff=0.8)


@pytest.fixture(scope="module")
def problem():
    params = jax.jit(FLOW.init)(jax.random.key(0))
    return FLOW, params, jax.random.normal(jax.random.key(1), (5,))


OBSERVATIONS = {
    "mask": mask(jnp.array([True, False, True, False, False])),
    "linear": linear(np.random.default_rng(0).standard_normal((2, 5))).observation,
    "nothing": mask(jnp.zeros(5, bool)),
    "everything": mask(jnp.ones(5, bool)),
}
ESTIMATORS = {
    "exact": elbo.exact(),
    "clade": elbo.clade(log_det=power_series(terms=40)),
    "clade, roulette": elbo.clade(log_det=russian_roulette()),
    "nlade": elbo.nlade(),
    "nlade, 3 probes": elbo.nlade(probes=3),
}


@functools.cache
def gradients(estimator):
    """``(point, where, keys)``: a gradient a key, in the parameters and the event, for every observation of one kind."""
    estimate = ESTIMATORS[estimator]

    def gradient(point, where, key):
        return jax.flatten_util.ravel_pytree(jax.grad(lambda at: estimate(key, FLOW, at[0], where, at[1]))(point))[0]

    return jax.jit(
        lambda point, where, keys: jax.lax.map(lambda k: gradient(point, where, k), keys, batch_size=min(100, len(keys)))
    )


@pytest.mark.parametrize(
    ("estimator", "observation"),
    [(e, o) for e in ("clade", "nlade") for o in ("mask", "nothing", "everything")]
    + [("nlade, 3 probes", "linear"), pytest.param("clade, roulette", "linear", marks=pytest.mark.long)],
)
def test_estimators_agree_with_the_exact_gradient(problem, estimator, observation):
    _, *point = problem
    where = hidden(OBSERVATIONS[observation])
    truth = gradients("exact")(point, where, jax.random.split(jax.random.key(2), 1))[0]
    draws = gradients(estimator)(point, where, jax.random.split(jax.random.key(2), DRAWS))
    error = np.std(draws, axis=0) / np.sqrt(DRAWS)
    gap = np.abs(np.mean(draws, axis=0) - truth)
    # 5 standard errors, and what rounding and the linear solves' tolerance leave
    assert np.all(gap <= 5 * error + 2e-4), np.max(gap / (error + 1e-12))


def test_log_det_gap_is_that_of_the_dense_blocks(problem):
    flow, params, y = problem
    jacobian = np.asarray(jax.jit(jax.jacfwd(flow.encode, argnums=1))(params, y), np.float64)
    observed = np.array([True, False, True, False, False])
    inverse = np.linalg.inv(jacobian)
    expected = -np.linalg.slogdet(inverse[np.ix_(observed, observed)])[1]
    for slots in (None, 3, 4):
        gap = jax.jit(elbo.log_det_gap, static_argnums=0)(flow, params, hidden(OBSERVATIONS["mask"], slots), y)
        np.testing.assert_allclose(gap, expected, atol=1e-5)


def _draw_gradients(problem, path_derivative, theta, family):
    flow, params, y = problem
    where = hidden(OBSERVATIONS["mask"], 3)
    known = OBSERVATIONS["mask"].observed_part(y)
    start = jax.jit(gauss_newton_reference, static_argnums=0)(flow, params, where, known)

    def weight(theta, eps):
        gap = lambda t: elbo.log_det_gap(flow, params, where, t)  # noqa: E731
        solver = boundary_sweep(tol=1e-6)
        drawn = elbo.draw(eps, flow, params, where, known, family, theta, start, solver, gap, path_derivative)
        return drawn.log_weight

    eps = jax.random.normal(jax.random.key(3), (DRAWS, 3))
    gradients = jax.jit(jax.vmap(jax.grad(weight), in_axes=(None, 0)))(theta, eps)
    return np.concatenate([np.reshape(leaf, (DRAWS, -1)) for leaf in jax.tree.leaves(gradients)], axis=1)


@pytest.mark.long
def test_path_derivative_has_the_same_mean_and_less_variance_near_the_posterior(problem):
    family = posteriors.mean_field()
    theta = family.init(jax.random.key(0), 3)
    path, full = (np.asarray(_draw_gradients(problem, flag, theta, family)) for flag in (True, False))
    gap = path - full
    error = gap.std(axis=0) / np.sqrt(DRAWS)
    assert np.all(np.abs(gap.mean(axis=0)) <= 5 * error + 1e-3)
    assert path.var(axis=0).sum() < 0.5 * full.var(axis=0).sum()


def test_names_are_checked():
    with pytest.raises(ValueError, match=r"expected an estimator of \['clade', 'exact', 'nlade'\]"):
        elbo.gradient_estimator("score")
