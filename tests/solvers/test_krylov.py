"""Linear solves by restarted GMRES: against dense solves, batched, with and without a preconditioner."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.solvers.krylov import gmres, simpler_gmres

SIZE = 12


def _systems():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, SIZE, SIZE))
    skew = noise[2] - noise[2].T
    matrices = np.stack([
        np.eye(SIZE) + 0.1 * noise[0],
        noise[1] + 0.5 * np.eye(SIZE),
        # its field of values holds zero: the first step along the residual gains nothing
        skew,
        np.eye(SIZE),
        # a right-hand side of zero
        noise[4],
    ])  # fmt: skip
    b = rng.standard_normal((5, SIZE))
    b[4] = 0.0
    return jnp.asarray(matrices, jnp.float32), jnp.asarray(b, jnp.float32)


@pytest.mark.parametrize("solve", [gmres, simpler_gmres])
def test_a_batch_is_solved_to_the_residual_reported(solve):
    matrices, b = _systems()
    x, info = jax.jit(jax.vmap(lambda a, b: solve(lambda v: a @ v, b, tol=1e-5)))(matrices, b)
    left = np.linalg.norm(np.einsum("sij,sj->si", matrices, x) - b, axis=1)
    assert np.all(np.asarray(info.converged))
    assert np.all(left <= 2e-5 * np.linalg.norm(b, axis=1))
    assert np.all(np.asarray(x)[4] == 0)
    assert info.steps[4] == 0


def test_simpler_gmres_counts_its_products_and_needs_few_with_a_good_preconditioner():
    matrices, b = _systems()
    inverses = jnp.linalg.inv(matrices + 1e-2)

    def one(a, b, inverse):
        plain = simpler_gmres(lambda v: a @ v, b, tol=1e-3)[1]
        helped = simpler_gmres(lambda v: a @ v, b, tol=1e-3, preconditioner=lambda v: inverse @ v)[1]
        return plain.evaluations, helped.evaluations

    plain, helped = jax.jit(jax.vmap(one))(matrices[:3], b[:3], inverses[:3])
    # a product that measures the residual, and for one rank away from the inverse two directions
    assert np.all(np.asarray(helped) <= 4)
    assert np.all(np.asarray(plain)[1:] > SIZE // 2)


def test_simpler_gmres_says_when_there_is_no_solution():
    singular = jnp.diag(jnp.asarray([1.0, 2.0, 0.0]))
    x, info = simpler_gmres(lambda v: singular @ v, jnp.ones(3), tol=1e-5)
    assert not info.converged
    np.testing.assert_allclose(info.residual, 1 / np.sqrt(3), rtol=1e-3)
    assert np.all(np.isfinite(x))
