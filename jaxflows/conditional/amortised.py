"""The amortised posterior: a network gives the free latent's mean and deviation of any row (IVCNF Secs. 3.5 and 4.2.1).

    x_hidden = P_H ( mu + sigma eps ),   eps ~ N(0, I),   (mu, log sigma) = network(y_observed, mask)

In training (`jaxflows.fit_incomplete`) it is event-shaped: no list of hidden coordinates, no matrix, whatever the number of
entries. In completing rows (``jaxflows.complete(..., posterior=amortised)``) it is the mean-field family of
`jaxflows.conditional.posteriors`, started where the network says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.conditional.constraint import solve_with_stack
from jaxflows.conditional.hidden import Hidden, hidden
from jaxflows.factory import factory
from jaxflows.flows import Flow, standard_normal_log_prob
from jaxflows.observation import Observation, mask
from jaxflows.solvers.equation import ConstraintSolver, Solution, Stack, trace


class Amortised(NamedTuple):
    """An inference network and all it needs. The observations it takes are masks.

    Attributes:
        network: a flax module, `jaxflows.networks.inference_network`; static.
        params: its parameters.
        centre: (*event,), the median of the observed values, which stands in holes.
        spread: (*event,), their standard deviation.
    """

    network: Any
    params: Params
    centre: jax.Array
    spread: jax.Array

    def moments(self, y_observed: jax.Array, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """mu and log sigma, (*event,) each, of one row; their entries mean something where hidden."""
        standard = jnp.where(observed, (y_observed - self.centre) / self.spread, 0.0)
        mu, log_sigma = self.network.apply({"params": self.params}, standard, observed)
        return mu, log_sigma

    def filled(self, y_observed: jax.Array, observed: jax.Array) -> jax.Array:
        """The row with the median in its holes."""
        return jnp.where(observed, y_observed, self.centre)

    def mean_field(self, where: Hidden, y_observed: jax.Array) -> dict[str, jax.Array]:
        """q as the parameters of `jaxflows.posteriors.mean_field` with ``start='prior'``, for one row."""
        mu, log_sigma = self.moments(y_observed, where.observation.observed)
        vectors = jnp.zeros((0, where.slots.size), mu.dtype)
        return {"mu": where.compress(mu), "log_sigma": where.compress(log_sigma), "vectors": vectors}


class AmortisedDraw(NamedTuple):
    """One draw from an amortised q.

    Attributes:
        y: (*event,), the completed event; where the constraint was not solved, the row with the median in its holes.
        x: (*latent,), its latent.
        log_weight: log p(y) - log q(y_hidden), whose mean is the bound; meaningless where the constraint was not solved.
        info: the solver's report.
    """

    y: jax.Array
    x: jax.Array
    log_weight: jax.Array
    info: SolveInfo


def amortised_draw(
    eps: jax.Array,
    flow: Flow,
    params: Params,
    posterior: Amortised,
    y_observed: jax.Array,
    observed: jax.Array,
    solver: ConstraintSolver,
    log_det: Callable[[jax.Array], jax.Array],
) -> AmortisedDraw:
    """One draw from q and its solved constraint, differentiable in ``params`` and the network's parameters.

    The network's output is held inside log q (path derivative), so that the gradient's variance vanishes as q reaches the
    posterior; the bound's gradient is the same in expectation, for the flow's parameters too, on which q does not depend.

    Args:
        eps: (*event,) standard normal.
        flow, params: the flow.
        posterior: q.
        y_observed: (*event,); anything finite where hidden.
        observed: (*event,) boolean.
        solver: a `ConstraintSolver`.
        log_det: ``y -> log|det G(y)| - log|det G^HH(y)|``, exact or a surrogate with the right gradient.

    Cost: the network, one pass to start from the filled event, the solve, and ``log_det``.
    """
    observation = mask(observed)
    mu, log_sigma = posterior.moments(y_observed, observed)
    x_hidden = observation.hidden_part(mu + jnp.exp(log_sigma) * eps)
    start = trace(flow, *jax.lax.stop_gradient((params, posterior.filled(y_observed, observed))))
    solution, info = solve_with_stack(
        flow, params, observation, y_observed, flow.bijector.move(x_hidden), solver=_sheltered(solver), start=start
    )
    held_mu, held_log_sigma = jax.lax.stop_gradient((mu, log_sigma))
    normal = -0.5 * ((x_hidden - held_mu) * jnp.exp(-held_log_sigma)) ** 2 - held_log_sigma - 0.5 * math.log(2 * math.pi)
    log_q = jnp.sum(jnp.where(observed, 0.0, normal))
    x = flow.encode(params, solution.y)
    return AmortisedDraw(solution.y, x, standard_normal_log_prob(x) + log_det(solution.y) - log_q, info)


@factory
def _sheltered(solver: ConstraintSolver) -> ConstraintSolver:
    """``solver``, but where it did not converge the event is its start's.

    A row without gradient still goes through the backward pass, where zero times an overflow would be NaN for the whole batch.
    """

    def solve(
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
        inverse: Partial | None = None,
    ) -> tuple[Solution, SolveInfo]:
        solution, info = solver(flow, params, observation, y_observed, x_hidden, start, inverse)
        begin = trace(flow, params, y_observed) if start is None else start
        shelter = Solution(observation.restore(begin.first, y_observed), begin.last, begin)
        return jax.tree.map(lambda found, safe: jnp.where(info.converged, found, safe), solution, shelter), info

    return solve


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean_fields(network: Any, max_hidden: int, arrays: Any, observations: Observation, known: jax.Array) -> Any:
    posterior = Amortised(network, *arrays)
    return jax.vmap(lambda o, y: posterior.mean_field(hidden(o, max_hidden), y))(observations, known)


def mean_fields(posterior: Amortised, max_hidden: int, observations: Observation, known: jax.Array) -> Any:
    """`Amortised.mean_field` of a batch of rows, every leaf with a leading axis."""
    return _mean_fields(posterior.network, max_hidden, tuple(posterior[1:]), observations, known)
