"""y = f(x) by backward passes over the whole stack, to any tolerance and from any guess.

`Flow.decode` inverts block after block, each from cold to its own tolerance. The solvers that invert the flow again and
again at nearby latents (Algorithm 2, Newton in the latent) instead repeat the backward half of the boundary sweep with
nothing observed, z_l <- backward_step_l(z_{l+1}, z_l), whose fixed point is the inverse, starting from the last stack.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflows.bijectors.base import Params, SolveInfo
from jaxflows.flows import Flow
from jaxflows.observation import mask
from jaxflows.solvers.equation import Stack
from jaxflows.solvers.fixed_point import iterate


def invert_stack(
    flow: Flow,
    params: Params,
    x: jax.Array,
    guess: Stack,
    *,
    tol: float | jax.Array,
    max_passes: int = 500,
    history: int = 5,
) -> tuple[Stack, SolveInfo]:
    """The stack whose last point is x.

    Args:
        x: (*latent,), the latent to invert.
        guess: any stack; that of a nearby latent is a warm start.
        tol: largest move of any point in a pass accepted.
        max_passes: passes at most.
        history: depth of the Anderson memory.

    Returns:
        ``(stack, info)``; ``info.residual`` is the last move. Cost: L block evaluations a pass.
    """
    nothing = mask(jnp.zeros(flow.event_shape, bool))
    flat, unravel = ravel_pytree((guess.first, guess.path))

    def one_pass(flat: jax.Array) -> jax.Array:
        first, path = unravel(flat)
        path, first = flow.bijector.sweep_backward(params, nothing, x, path, first, None)
        return ravel_pytree((first, path))[0]

    flat, info = iterate(one_pass, flat, tol=tol, max_steps=max_passes, history=history)
    first, path = unravel(flat)
    return Stack(first, path, x), info._replace(evaluations=flow.bijector.blocks * info.steps)
