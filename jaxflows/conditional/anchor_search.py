"""The anchor: the completion of least energy, y* = argmin U(y) over y_hidden, and its linearisation.

    U(y) = |g(y)|^2 / 2 - (1 - K/d) log|det G(y)|    where the flow is explicit both ways
    U(y) = |g(y)|^2 / 2                              of other flows, whose log-determinants are dear and vary little

In x_hidden the conditional is p0(x) |det G| / |det G^HH|. U takes log|det G^HH| for its share K/d of log|det G|, K of d entries
being hidden. Of couplings |g(y)|^2 alone is no guide: it falls where they shrink the volume, and its least value may lie far
from all probability (docs/design.md, section 6). With A = G[:, H] the hidden columns of the Jacobian, u the gradient of U in
y_hidden and N = A^T A = C C^T, a Gauss-Newton step is -N^{-1} u, along which the best of a few lengths is taken. It promises a
decrease of |C^{-1} u|^2 / 2 nats; under `SMALL_DECREASE` the search ends. What is wanted there is A itself, K products with G.
On the way it is not: from a linearisation on steps are solved for by conjugate gradients, on products with A and A^T,
preconditioned by its C. The next linearisation is due when a step promises little by the old C, or is not solved for any more.

Source: ours; inexact Newton steps by Dembo, Eisenstat and Steihaug (1982).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from jaxflows.bijectors.base import Params
from jaxflows.conditional.hidden import Hidden, hidden_columns
from jaxflows.flows import Flow

# lengths tried along a Gauss-Newton direction, all in one batched encode
STEP_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03)

# the decrease of U, in nats, under which a Gauss-Newton step is taken to first order and ends the search
SMALL_DECREASE = 1e-2

# of a step: the error of its solution, relative, in the norm of the preconditioner
STEP_ERROR = 0.3

# the iterations it may take, a share of the K hidden entries and never below the second: 2 K / 8 products and no answer say
# that the factor is old, and a linearisation of K is due
MOST_ITERATIONS, LEAST_ITERATIONS = 1 / 8, 5

# an old factor promises less than there is: of `SMALL_DECREASE`, what it may promise before a linearisation has to tell
LITTLE_PROMISED = 0.1


class Linearised(NamedTuple):
    """An event of the search and its linearisation.

    Attributes:
        y: (*event,).
        x: (d,), its latent in the coordinates of the observation.
        columns: A, (d, K).
        factor: C, (K, K), lower.
        half: C^{-1} u, (K,).
        decrease: |half|^2 / 2, what a step promises.
        steps: Gauss-Newton steps and linearisations so far.
        evaluations: block evaluations so far.
        moving: whether the search goes on.
    """

    y: jax.Array
    x: jax.Array
    columns: jax.Array
    factor: jax.Array
    half: jax.Array
    decrease: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    moving: jax.Array


class _Walk(NamedTuple):
    """Steps between two linearisations: the event reached, whether any step led to it, and whether there is another."""

    y: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    moved: jax.Array
    going: jax.Array


def energy(flow: Flow, params: Params, where: Hidden, y: jax.Array) -> jax.Array:
    """U(y) in nats. Cost: one pass of the flow."""
    if not flow.bijector.explicit:
        return 0.5 * jnp.sum(flow.encode(params, y) ** 2)
    x, log_det = flow.bijector.forward(params, y)
    return 0.5 * jnp.sum(x**2) - (1.0 - jnp.sum(where.used) / y.size) * log_det


def normal_factor(where: Hidden, columns: jax.Array) -> jax.Array:
    """C, (K, K), lower, with C C^T = A^T A of the hidden columns A, (d, K); an identity in unused slots."""
    normal = columns.T @ columns + jnp.diag(jnp.where(where.used, 0.0, 1.0).astype(columns.dtype))
    # rounding alone must not make it indefinite
    ridge = 4 * jnp.finfo(normal.dtype).eps * jnp.max(jnp.diagonal(normal))
    return jnp.linalg.cholesky(normal + ridge * jnp.eye(where.slots.size, dtype=normal.dtype))


def find_anchor(flow: Flow, params: Params, where: Hidden, y: jax.Array, max_steps: int) -> Linearised:
    """The completion of least energy near a completion y, and its linearisation.

    Args:
        flow, params: the flow.
        where: the hidden subspace, K slots.
        y: (*event,), where the search begins.
        max_steps: steps and linearisations at most.

    Cost: a linearisation takes K + 1 passes of the flow, two more where the volume counts, and O(d K^2) arithmetic; a step some
    ten passes and twice as many as its solve has iterations, and O(K^2) for each.
    """
    potential = functools.partial(energy, flow, params, where)

    def body(carry: Linearised) -> Linearised:
        x, columns = hidden_columns(flow, params, where, carry.y)
        x = where.observation.to_coordinates(x).reshape(-1)
        factor = normal_factor(where, columns)
        # where the energy is |x|^2 / 2 its gradient is A^T x
        gradient = where.compress(jax.grad(potential)(carry.y)) if flow.bijector.explicit else columns.T @ x
        half = solve_triangular(factor, gradient, lower=True)
        decrease = 0.5 * jnp.sum(half**2)
        steps = carry.steps + 1
        passes = where.slots.size + (3 if flow.bijector.explicit else 1)
        spent = carry.evaluations + flow.bijector.blocks * passes
        wanted = (decrease > SMALL_DECREASE) & (steps + 1 < max_steps)
        walk = _walk(flow, params, where, factor, _Walk(carry.y, steps, spent, jnp.zeros((), bool), wanted), max_steps)
        return Linearised(walk.y, x, columns, factor, half, decrease, walk.steps, walk.evaluations, walk.moved)

    with jax.default_matmul_precision("highest"):
        slots = where.slots.size
        zeros = functools.partial(jnp.zeros, dtype=y.dtype)
        none, moving = jnp.zeros((), jnp.int32), jnp.ones((), bool)
        begin = Linearised(
            y, zeros(y.size), zeros((y.size, slots)), zeros((slots, slots)), zeros(slots), zeros(()), none, none, moving
        )
        return jax.lax.while_loop(lambda carry: carry.moving, body, begin)


def _walk(flow: Flow, params: Params, where: Hidden, factor: jax.Array, begin: _Walk, max_steps: int) -> _Walk:
    """Step from one linearisation until the next is due: a step promises little, is not solved for, or gains nothing."""
    lengths = jnp.asarray(STEP_LENGTHS, begin.y.dtype).reshape((-1,) + (1,) * begin.y.ndim)
    most = max(LEAST_ITERATIONS, round(MOST_ITERATIONS * where.slots.size))

    potential = functools.partial(energy, flow, params, where)

    def body(carry: _Walk) -> _Walk:
        x, push = jax.linearize(functools.partial(flow.encode, params), carry.y)
        pull = jax.linear_transpose(push, carry.y)

        def adjoint(t: jax.Array) -> jax.Array:
            return where.compress(pull(t)[0])

        if flow.bijector.explicit:
            here, slope = jax.value_and_grad(potential)(carry.y)
            gradient = where.compress(slope)
        else:
            here, gradient = 0.5 * jnp.sum(x**2), adjoint(x)
        promised = 0.5 * jnp.vdot(gradient, cho_solve((factor, True), gradient))
        wanted = promised > LITTLE_PROMISED * SMALL_DECREASE
        step, iterations = _conjugate_gradients(lambda v: adjoint(push(where.expand(v))), gradient, factor, most, wanted)
        candidates = carry.y - lengths * where.expand(step)
        values = jax.vmap(potential)(candidates)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        gained = wanted & (values[best] < here)
        passes = (4 if flow.bijector.explicit else 2) + jnp.where(wanted, len(STEP_LENGTHS) + 2 * iterations, 0)
        steps = carry.steps + wanted
        return _Walk(
            jnp.where(gained, candidates[best], carry.y),
            steps,
            carry.evaluations + flow.bijector.blocks * passes,
            carry.moved | gained,
            gained & (iterations < most) & (steps + 1 < max_steps),
        )

    return jax.lax.while_loop(lambda carry: carry.going, body, begin)


def _conjugate_gradients(
    operator: Callable[[jax.Array], jax.Array], right_hand_side: jax.Array, factor: jax.Array, most: int, wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Solve N v = b to `STEP_ERROR` by conjugate gradients, preconditioned by C C^T.

    Args:
        operator: N.
        right_hand_side: b, (K,).
        factor: C.
        most: iterations at most.
        wanted: False for no iterations.

    Returns:
        v, and the iterations taken: as many products with N.
    """

    def unsolved(carry: Any) -> jax.Array:
        *_, square, count = carry
        return wanted & (square > STEP_ERROR**2 * first) & (count < most)

    def body(carry: Any) -> Any:
        v, residual, direction, square, count = carry
        image = operator(direction)
        length = square / jnp.vdot(direction, image)
        residual = residual - length * image
        turned = cho_solve((factor, True), residual)
        after = jnp.vdot(residual, turned)
        return v + length * direction, residual, turned + after / square * direction, after, count + 1

    turned = cho_solve((factor, True), right_hand_side)
    first = jnp.vdot(right_hand_side, turned)
    begin = jnp.zeros_like(right_hand_side), right_hand_side, turned, first, jnp.zeros((), jnp.int32)
    v, *_, count = jax.lax.while_loop(unsolved, body, begin)
    return v, count
