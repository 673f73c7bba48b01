"""Data in the plane that a small flow learns in seconds, and the exact conditional of any plane flow by quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import jaxflows as jf
from jaxflows.conditional.diagnostics import resample
from jaxflows.conditional.sample import draw_samples
from jaxflows.solvers.robust import quick_solver

DRAWS = 2000


def bent_data(count, size=2):
    """Rows (count, size): standard normals, the second bent by the first, y_2 = 0.5 y_1^2 - 0.5 + 0.7 e, others mixed in."""
    normals = np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)
    normals[:, 1] = 0.5 * normals[:, 0] ** 2 - 0.5 + 0.7 * normals[:, 1]
    normals[:, 2:] = 0.8 * normals[:, 2:] + 0.4 * normals[:, :1]
    return normals


def check_conditional(flow, params, seen):
    """The weighted draws of y_2 given y_1 have the mean of the exact conditional, within 5 standard errors."""
    grid = jnp.linspace(-8.0, 8.0, 2001)
    observation = jf.observe.mask(jnp.array([True, False]))

    @jax.jit
    def both(first):
        # E[y_2 | y_1 = first] by the trapezoid rule on an even grid
        points = jnp.stack([jnp.full_like(grid, first), grid], axis=1)
        mean = jax.nn.softmax(jax.vmap(lambda y: flow.log_prob(params, y))(points)) @ grid
        known = jnp.array([first, 0.0])
        # one solver without a fallback: it must solve every draw by itself, and its program is half of the default's
        options = {"num_samples": DRAWS, "max_hidden": 1, "solver": quick_solver(True)}
        return mean, draw_samples(jax.random.key(1), flow, params, observation, known, **options)

    for first in seen:
        mean, drawn = both(first)
        assert float(drawn.solve.converged) > 0.99
        picked = np.asarray(resample(jax.random.key(2), drawn.samples, drawn.log_weights, DRAWS))
        assert np.all(picked[:, 0] == np.float32(first))
        # resampled draws are worth as many as the weights' effective number
        error = picked[:, 1].std() / float(drawn.report.ess) ** 0.5
        assert abs(picked[:, 1].mean() - float(mean)) < 5 * error
        assert float(drawn.report.ess) > 0.05 * DRAWS
