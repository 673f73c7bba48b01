"""The report of an inversion, from the defect it really left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import SolveInfo
from jaxflows.solvers.fixed_point import default_tolerance
from jaxflows.solvers.largest import largest


def report_inversion(
    transform: Callable[[Any, jax.Array], jax.Array], params: Any, u: jax.Array, v: jax.Array, steps: int | jax.Array
) -> SolveInfo:
    """The info of an inversion u of v by any means: residual max |transform(u) - v|, against the default tolerance.

    Args:
        transform: ``(params, u) -> v``.
        params: of the transform.
        u: the inverse found.
        v: the point inverted.
        steps: iterations spent on it.

    Returns:
        Info that counts two evaluations, the inversion and the check, and carries no derivative.
    """
    params, u, v = jax.lax.stop_gradient((params, u, v))
    residual = largest(transform(params, u) - v)
    limit = default_tolerance(v.dtype)
    return SolveInfo(residual, jnp.asarray(steps, jnp.int32), residual <= limit, jnp.full((), 2, jnp.int32))
