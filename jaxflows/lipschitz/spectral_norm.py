"""Spectral norms of the true linear operator: tracked by power iteration with explicit state, and certified.

For a linear map A (a matrix, or a convolution with the padding it is really used with) and a unit vector t,

    s = A t / |A t|,   t' = A^T s / |A^T s|,   |A t| <= ||A||_2,

and ``t`` is the state: saved with the parameters, renewed by a pure function, never hidden in a module. Power iteration
estimates from below, so it tracks a norm but certifies none; `dense_norm` and `conv_norm` bound from above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.precision import full_precision

# largest side of a Gram matrix for which the exact norm of a convolution is computed
GRAM_LIMIT = 1024


def _unit(t: jax.Array) -> jax.Array:
    return t / jnp.maximum(jnp.linalg.norm(t), jnp.finfo(t.dtype).tiny)


@full_precision
def power_iteration(operator: Callable[[jax.Array], jax.Array], t: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """Estimate ||A||_2 from below by ``steps`` power iterations on A^T A.

    Args:
        operator: the linear map, one array to one array.
        t: the start, of the operator's input shape; any non-zero vector not orthogonal to the top singular vector.
        steps: iterations; each costs one application of A and one of A^T.

    Returns:
        ``(norm, t)``: |A t| for the renewed unit vector ``t``, and that vector.
    """
    transpose = jax.linear_transpose(operator, t)

    def body(_: Any, t: jax.Array) -> jax.Array:
        moved = transpose(operator(t))[0]
        # an operator that is zero for a while must not wipe out the state
        return jnp.where(jnp.linalg.norm(moved) > 0, _unit(moved), t)

    # at the fixed point the norm does not move with t, so its derivative is u t^T and the iteration needs none
    t = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, body, _unit(t)))
    return jnp.linalg.norm(operator(t)), t


@full_precision
def dense_norm(weight: jax.Array) -> jax.Array:
    """The exact spectral norm of a matrix, by the largest eigenvalue of its smaller Gram matrix: O(n^3), n the smaller side.

    That eigenvalue has no cancellation. An SVD would do, but on one core jaxlib 0.9 can wait for ever in it (docs/design.md).
    """
    rows, columns = weight.shape
    gram = weight @ weight.T if rows <= columns else weight.T @ weight
    return _root(jnp.linalg.eigvalsh(gram)[-1])


def _root(square: jax.Array) -> jax.Array:
    """The root, 0 with derivative 0 where rounding or a zero operator leaves nothing; NaN of NaN."""
    nothing = square <= 0
    return jnp.where(nothing, 0.0, jnp.sqrt(jnp.where(nothing, 1.0, square)))


@full_precision
def leading_vector(operator: Callable[[jax.Array], jax.Array], t: jax.Array, steps: int = 30) -> jax.Array:
    """The top right singular vector of A, by Lanczos on A^T A with full reorthogonalisation, restarted twice.

    Args:
        operator: the linear map, one array to one array.
        t: the start, of the operator's input shape.
        steps: Krylov dimension of a round; at most the size of ``t`` is used.

    Returns:
        A unit vector of ``t``'s shape. Cost: three rounds of ``steps`` applications of A and of A^T. For the start of
        training, where power iteration from a random vector needs hundreds of steps.
    """
    transpose = jax.linear_transpose(operator, t)
    count = min(steps, t.size)

    def gram(flat: jax.Array) -> jax.Array:
        return transpose(operator(flat.reshape(t.shape)))[0].reshape(-1)

    def one_round(_: Any, start: jax.Array) -> jax.Array:
        def extend(i: jax.Array, basis: jax.Array) -> jax.Array:
            raw = gram(basis[i - 1])
            # twice is enough (Kahan): after it the basis is orthogonal to rounding
            new = raw - (basis @ raw) @ basis
            new = new - (basis @ new) @ basis
            # an exhausted Krylov space leaves rounding noise: a zero row is harmless, a noisy one is not orthogonal
            noise = jnp.sqrt(jnp.finfo(t.dtype).eps) * jnp.linalg.norm(raw)
            return basis.at[i].set(jnp.where(jnp.linalg.norm(new) > noise, _unit(new), 0.0))

        basis = jnp.zeros((count, t.size), t.dtype).at[0].set(_unit(start))
        basis = jax.lax.fori_loop(1, count, extend, basis)
        small = basis @ jax.lax.map(gram, basis).T
        _, vectors = jnp.linalg.eigh((small + small.T) / 2)
        return _unit(vectors[:, -1] @ basis)

    return jax.lax.fori_loop(0, 3, one_round, t.reshape(-1)).reshape(t.shape)


@full_precision
def conv_norm(convolve: Callable[[jax.Array], jax.Array], kernel: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """A bound on the norm of a zero-padded stride-1 convolution of an event of ``shape`` (height, width, channels).

    Exact, by the eigenvalues of A A^T or A^T A, where the smaller side is at most `GRAM_LIMIT`. Beyond, the norm on the
    torus of side + kernel - 1, of which zero padding is a restriction (so never less than the true norm, and above it
    by O(1 / side^2)): the largest singular value of the kernel's Fourier transform over all frequencies (Sedghi et al.
    2019, The singular values of convolutional layers).

    Args:
        convolve: the operator really applied, from (height, width, n_in) to (height, width, n_out).
        kernel: (side, side, n_in, n_out).
        shape: (height, width, n_in).

    Cost: n convolutions and n^3 for the exact norm, n the smaller side; for the bound the eigenvalues of a matrix a frequency,
        of the fewer channels.
    """
    height, width, _ = shape
    side, _, n_in, n_out = kernel.shape
    if side == 1:
        return dense_norm(kernel[0, 0])
    size = height * width * min(n_in, n_out)
    if size > GRAM_LIMIT:
        spectrum = jnp.fft.fft2(kernel, (height + side - 1, width + side - 1), axes=(0, 1))
        # of the smaller Gram matrices: the largest eigenvalue has no cancellation, and GPUs take thousands of them at once
        smaller = spectrum if n_in <= n_out else jnp.swapaxes(spectrum, -1, -2)
        products = smaller @ jnp.conj(jnp.swapaxes(smaller, -1, -2))
        return _root(jnp.max(jnp.linalg.eigvalsh(products)))
    transpose = jax.linear_transpose(convolve, jnp.zeros(shape, kernel.dtype))

    def gram(basis_vector: jax.Array) -> jax.Array:
        if n_in <= n_out:
            return transpose(convolve(basis_vector.reshape(shape)))[0].reshape(-1)
        return convolve(transpose(basis_vector.reshape(height, width, n_out))[0]).reshape(-1)

    matrix = jax.lax.map(gram, jnp.eye(size, dtype=kernel.dtype), batch_size=32)
    return _root(jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
