"""The Sylvester layer v = u + Q R tanh(R~ Q^T u + b) (van den Berg et al. 2018), with its exact inverse."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer
from jaxflows.bijectors.planar import bounding_factor, check_margin
from jaxflows.factory import factory
from jaxflows.solvers.implicit_root import implicit_root
from jaxflows.solvers.inversion_report import report_inversion
from jaxflows.solvers.monotone_root import monotone_root

# kind -> the option that belongs to it
_KINDS = {"orthogonal": "rank", "householder": "reflections", "triangular": "reverse"}


@factory
def sylvester(
    *,
    kind: str = "orthogonal",
    rank: int | None = None,
    reflections: int | None = None,
    reverse: bool | None = None,
    margin: float = 1e-3,
) -> Bijector:
    """v = u + Q R tanh(R~ Q^T u + b), Q with orthonormal columns (d x M), R and R~ upper triangular (M x M).

        log|det dv/du| = sum_i log(1 + R_ii R~_ii (1 - tanh(R~ Q^T u + b)_i^2))

    Invertible because R_ii R~_ii > -1 + margin for any raw parameters: R_ii = k(x) rho_i, R~_ii = sigma_i, x = rho_i sigma_i
    and k as `jaxflows.bijectors.planar.bounding_factor`. Q is an exact product of Householder reflections (no iterative
    orthogonalisation, which leaves a defect), in compact form (Schreiber and Van Loan 1989):

        H_1 .. H_n = I - V T V^T,   T^-1 = I / 2 + strict upper triangle of V^T V,   V the unit vectors.

    The inverse solves t + R tanh(R~ t + b) = Q^T v for t = Q^T u from the last entry to the first, an increasing scalar
    equation each, and then u = v - Q R tanh(R~ t + b).

    Args:
        kind: 'orthogonal' (M = rank, Q any such matrix up to signs), 'householder' (M = d, Q a product of ``reflections``)
            or 'triangular' (M = d, Q the identity, or the reversal of the entries).
        rank: M of the kind 'orthogonal', from 1 to d.
        reflections: their number, at least 1, of the kind 'householder'.
        reverse: whether Q reverses the entries, of the kind 'triangular'.
        margin: how far each R_ii R~_ii stays from -1, in (0, 1).

    Cost: 4dn + 2M^2 multiplications forward, n the number of reflections; backward as many, and M scalar solves of about six
    Newton steps one after the other. A derivative of the inverse adds one triangular solve.

    References: van den Berg et al. 2018 (Sylvester normalizing flows), Theorems 1 and 2 and Sec. 3.
    """
    given = {"rank": rank, "reflections": reflections, "reverse": reverse}
    if kind not in _KINDS:
        raise ValueError(f"expected kind to be one of {sorted(_KINDS)}; got {kind!r}")
    named = [name for name, value in given.items() if value is not None]
    if named != [_KINDS[kind]]:
        raise ValueError(f"expected {_KINDS[kind]}, and no other of {sorted(given)}, with kind {kind!r}; got {named}")
    count = {"orthogonal": rank, "householder": reflections, "triangular": 0}[kind] or 0
    if kind != "triangular" and count < 1:
        raise ValueError(f"expected {_KINDS[kind]} >= 1; got {count}")
    check_margin(margin)

    def output_shape(shape: Shape) -> Shape:
        if kind == "orthogonal" and count > math.prod(shape):
            raise ValueError(f"expected an event of at least rank = {count} entries; got shape {shape}")
        return shape

    def init(key: jax.Array, shape: Shape) -> Params:
        output_shape(shape)
        size = math.prod(shape)
        width = count if kind == "orthogonal" else size
        draw = jax.random.normal(key, (2 * width * width + count * size,))
        r, r_tilde = draw[: 2 * width * width].reshape(2, width, width) / math.sqrt(width)
        params = {"r": 0.1 * r, "r_tilde": r_tilde, "bias": jnp.zeros(width)}
        return params | {"vectors": draw[2 * width * width :].reshape(count, size)} if count else params

    def rotate(params: Params, u: jax.Array) -> jax.Array:
        """Q^T u, from (d,) to (M,)."""
        if count:
            v, t_inverse = compact(params["vectors"])
            u = u - jax.scipy.linalg.solve_triangular(t_inverse, v @ u, trans="T") @ v
        return u[::-1] if reverse else u[: params["bias"].size]

    def rotate_back(params: Params, t: jax.Array, size: int) -> jax.Array:
        """Q t, from (M,) to (d,)."""
        u = t[::-1] if reverse else jnp.pad(t, (0, size - t.size))
        if count:
            v, t_inverse = compact(params["vectors"])
            u = u - jax.scipy.linalg.solve_triangular(t_inverse, v @ u) @ v
        return u

    def triangles(params: Params) -> tuple[jax.Array, jax.Array]:
        r, r_tilde = jnp.triu(params["r"]), jnp.triu(params["r_tilde"])
        factor = bounding_factor(jnp.diagonal(r) * jnp.diagonal(r_tilde), margin)
        return jnp.where(jnp.eye(len(r), dtype=bool), factor * r, r), r_tilde

    def shift(params: Params, t: jax.Array, shape: Shape) -> jax.Array:
        """Q R tanh(R~ t + b) for t = Q^T u."""
        r, r_tilde = triangles(params)
        return rotate_back(params, r @ jnp.tanh(r_tilde @ t + params["bias"]), math.prod(shape)).reshape(shape)

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return u + shift(params, rotate(params, u.reshape(-1)), u.shape)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        with jax.default_matmul_precision("highest"):
            args = (*triangles(params), params["bias"], rotate(params, v.reshape(-1)))
            t, steps = _substitute_back(*jax.lax.stop_gradient(args))
            u = v - shift(params, _implicit(args, t), v.shape)
            return u, report_inversion(transform, params, u, v, steps)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        r, r_tilde = triangles(params)
        h = jnp.tanh(r_tilde @ rotate(params, u.reshape(-1)) + params["bias"])
        return jnp.sum(jnp.log1p(jnp.diagonal(r) * jnp.diagonal(r_tilde) * (1.0 - h**2)))

    return layer(
        spec=describe("sylvester", kind=kind, rank=rank, reflections=reflections, reverse=reverse, margin=margin), init=init,
        output_shape=output_shape, transform=transform, invert=invert, log_det=log_det, blocks=1,
    )  # fmt: skip


def compact(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """V^T (n, d) and T^-1 (n, n) of the product of reflections I - V T V^T; a vector of zeros reflects nothing.

    Args:
        vectors: (n, d), of any length each.
    """
    # the direction does not depend on the scale, which keeps squares from overflow and underflow
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    scaled = vectors / jnp.where(scale > 0, scale, 1.0)
    square = jnp.sum(scaled**2, axis=-1, keepdims=True)
    unit = scaled / jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return unit, jnp.triu(unit @ unit.T, 1) + 0.5 * jnp.eye(len(unit), dtype=unit.dtype)


def _equation(args: Any, t: jax.Array) -> jax.Array:
    r, r_tilde, bias, image = args
    return t + r @ jnp.tanh(r_tilde @ t + bias) - image


def _solve_tangent(args: Any, t: jax.Array, b: jax.Array) -> jax.Array:
    r, r_tilde, bias, _ = args
    slopes = 1.0 - jnp.tanh(r_tilde @ t + bias) ** 2
    return jax.scipy.linalg.solve_triangular(jnp.eye(len(b), dtype=b.dtype) + (r * slopes) @ r_tilde, b)


_implicit = implicit_root(_equation, _solve_tangent)
# entry i alone, the later ones known: gain, slope, bias and image are numbers
_solve_entry = monotone_root(lambda args, t: t + args[0] * jnp.tanh(args[1] * t + args[2]) - args[3])


def _substitute_back(r: jax.Array, r_tilde: jax.Array, bias: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The root t of t + R tanh(R~ t + b) = image, from the last entry to the first, and the scalar steps it took."""

    def entry(back: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        # t and h = tanh(R~ t + b) are zero in the entries not solved yet
        t, h, spent = carry
        i = len(bias) - 1 - back
        gain, offset, goal = r[i, i], bias[i] + r_tilde[i] @ t, image[i] - r[i] @ h
        root, steps = _solve_entry((gain, r_tilde[i, i], offset, goal), goal - jnp.abs(gain), goal + jnp.abs(gain))
        return t.at[i].set(root), h.at[i].set(jnp.tanh(r_tilde[i, i] * root + offset)), spent + steps

    zero = jnp.zeros_like(image)
    t, _, steps = jax.lax.fori_loop(0, len(bias), entry, (zero, zero, jnp.zeros((), jnp.int32)))
    return t, steps


EXAMPLES = {
    "sylvester": [
        (sylvester(rank=3), (5,)),
        (sylvester(rank=1, margin=0.1), (1,)),
        (sylvester(kind="householder", reflections=2), (2, 2)),
        (sylvester(kind="triangular", reverse=False), (3,)),
        (sylvester(kind="triangular", reverse=True), (3,)),
    ]
}
