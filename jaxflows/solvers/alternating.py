"""Algorithm 2 of IVCNF: the constraint by alternating full inversions and full encodings, the reference solver.

    start:   y^H = f^H(0, x^H),  x~^O = g^O(y^O, y^H),  y~^H = y^H
    repeat:  y^H  = f^H(x~^O, x^H);   y~^H = alpha_k y^H + (1 - alpha_k) y~^H
             x^O  = g^O(y^O, y~^H);   x~^O = beta_k  x^O + (1 - beta_k)  x~^O

It converges for every mixing when the Lipschitz constants of f^H and g^O multiply to less than one (Theorem 1). Mixing decays
as alpha_k = alpha decay^k, the paper's published schedule being 0.5 * 0.95^k: its steps sum to ten, so it may stall.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflows.bijectors.base import Params, SolveInfo, carried
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.observation import Observation
from jaxflows.solvers.anderson import AndersonState, anderson_next, anderson_start
from jaxflows.solvers.equation import ConstraintSolver, Solution, Stack, constraint_residual, default_tolerance, trace
from jaxflows.solvers.stack_inversion import invert_stack


class _State(NamedTuple):
    mixed: jax.Array
    memory: AndersonState | tuple[()]
    inverted: Stack
    best: jax.Array
    residual: jax.Array
    steps: jax.Array
    evaluations: jax.Array


@factory
def alternating(
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    decay: float = 1.0,
    history: int = 0,
    inner_tol: float | None = None,
    warm_start: bool = True,
    tol: float | None = None,
    max_steps: int = 200,
) -> ConstraintSolver:
    """Algorithm 2, with its mixing schedule, or Anderson-accelerated.

    Args:
        alpha, beta: mixing coefficients of the hidden event and of the observed latent, in (0, 1].
        decay: factor on both at every iteration, in (0, 1]; 0.95 with alpha = beta = 0.5 is the published schedule.
        history: depth of an Anderson memory over (y~, x~), the accelerated variant; 0 for the paper's algorithm.
        inner_tol: accuracy of the inversions; `Flow.decode` at its own tolerance, always cold, when None.
        warm_start: begin each inversion from the last one's stack, when ``inner_tol`` is given; else from the first one's.
        tol: constraint residual accepted; 1e-4 in float32 and 1e-10 in float64 when None.
        max_steps: iterations at most.

    Returns:
        A `ConstraintSolver` returning the event of least residual seen. A ``start`` replaces the initialisation. Cost of an
        iteration: L block evaluations and those of an inversion, which are counted.

    Raises:
        ValueError: coefficients outside (0, 1].
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("decay", decay)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"expected 0 < {name} <= 1; got {value}")

    def solve(
        flow: Flow,
        params: Params,
        observation: Observation,
        y_observed: jax.Array,
        x_hidden: jax.Array,
        start: Stack | None = None,
        inverse: Partial | None = None,
    ) -> tuple[Solution, SolveInfo]:
        del inverse
        limit = default_tolerance(y_observed.dtype) if tol is None else tol
        latent = carried(flow.bijector, observation)
        blocks, size = flow.bijector.blocks, y_observed.size

        def decode(x: jax.Array, guess: Stack) -> tuple[Stack, jax.Array]:
            if inner_tol is None:
                y, info = flow.decode(params, x)
                return guess._replace(first=y), info.evaluations
            found, info = invert_stack(flow, params, x, guess, tol=inner_tol)
            return found, info.evaluations

        def unpack(mixed: jax.Array) -> tuple[jax.Array, jax.Array]:
            return mixed[:size].reshape(y_observed.shape), mixed[size:].reshape(x_hidden.shape)

        def pack(y: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.concatenate([y.reshape(-1), x.reshape(-1)])

        def step(state: _State) -> _State:
            y_mixed, x_mixed = unpack(state.mixed)
            x = latent.restore(x_hidden, x_mixed)
            found, cost = decode(x, state.inverted)
            fade = decay ** state.steps.astype(x.dtype)
            y = observation.restore(y_mixed + alpha * fade * (found.first - y_mixed), y_observed)
            x = flow.encode(params, y)
            residual = constraint_residual(flow, observation, x, x_hidden)
            x = x_mixed + beta * fade * latent.observed_part(x - x_mixed)
            moved = pack(y, x)
            memory = state.memory
            if isinstance(memory, AndersonState):
                moved, memory = anderson_next(memory, state.mixed, moved - state.mixed)
            better = residual < state.residual
            return _State(
                moved,
                memory,
                found if warm_start and inner_tol is not None else state.inverted,
                jnp.where(better, y, state.best),
                jnp.minimum(residual, state.residual),
                state.steps + 1,
                state.evaluations + cost + blocks,
            )

        def unfinished(state: _State) -> jax.Array:
            return (state.residual > limit) & (state.steps < max_steps) & jnp.all(jnp.isfinite(state.mixed))

        with jax.default_matmul_precision("highest"):
            if start is None:
                cold = trace(flow, params, jnp.zeros_like(y_observed))
                first, spent = decode(latent.hidden_part(x_hidden), cold)
                spent = spent + 2 * blocks
            else:
                first, spent = start, jnp.asarray(blocks, jnp.int32)
            y = observation.restore(first.first, y_observed)
            x = flow.encode(params, y)
            residual = constraint_residual(flow, observation, x, x_hidden)
            mixed = pack(y, x)
            memory = anderson_start(mixed, history) if history else ()
            zero = jnp.zeros((), jnp.int32)
            begun = _State(mixed, memory, first, y, residual, zero, jnp.asarray(spent, jnp.int32))
            state = jax.lax.while_loop(unfinished, step, begun)
            stack = trace(flow, params, state.best)
        info = SolveInfo(state.residual, state.steps, state.residual <= limit, state.evaluations + blocks)
        return Solution(state.best, stack.last, stack), info

    return solve
