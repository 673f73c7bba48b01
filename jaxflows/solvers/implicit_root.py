"""Derivatives of a root, whatever solver found it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxflows.precision import full_precision

Equation = Callable[[Any, jax.Array], jax.Array]


def implicit_root(
    equation: Equation, solve_linear: Callable[[Any, jax.Array, jax.Array], jax.Array]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Make ``(args, x) -> x``, where F(args, x) = 0, differentiable in ``args``, forward and backward, to any order.

        x_dot = -(dF/dx)^-1 (dF/d args) args_dot          (implicit function theorem)

    Args:
        equation: F, ``(args, x) -> defect`` of x's shape; args is any pytree.
        solve_linear: ``(args, x, b) -> (dF/dx)^-1 b``, linear in b by operations that JAX can transpose and differentiate.

    Returns:
        The identity in x whose derivative is that of the root. The x given carries no derivative of its own.

    Cost: nothing forward; a derivative is one JVP or VJP of F and one linear solve, with memory constant in the solver's
    steps.
    """

    @jax.custom_jvp
    def root(args: Any, x: jax.Array) -> jax.Array:
        del args
        return x

    @root.defjvp
    @full_precision
    def root_jvp(primals: tuple[Any, jax.Array], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
        args, x = primals
        # x depends on args in the derivative too: this is what makes higher orders right
        x = root(args, x)
        b = jax.jvp(lambda a: equation(a, x), (args,), (tangents[0],))[1]
        return x, -solve_linear(args, x, b)

    return root
