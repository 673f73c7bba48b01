"""An affine map of images that is one small matrix a frequency of the cosine transform: it whitens natural images."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.cosines import cosine_matrix
from jaxflows.factory import factory


@factory
def cosine_affine(*, scale_floor: float = 1e-3) -> Bijector:
    """v = D^T T D (u - shift) on images: D the cosine transform, T a triangle of channels at each frequency.

    Events are (height, width, channels), D is the orthonormal two-dimensional DCT-II of every channel. Where the law of an
    image is about the same everywhere in it, its frequencies are about uncorrelated, and what a triangle each is left to do
    is to part their channels: started from a batch, v is white as far as second moments that all places share tell. It looks
    like an image still.

    T_ww = L_ww^{-1} with L_ww L_ww^T the covariance of the channels at the frequency w; the logarithm of its diagonal is what
    is trained. log|det dv/du| is the sum of these logarithms. Both directions are explicit, and linear: a linear measurement
    stays one, but a mask does not stay a mask.

    Args:
        scale_floor: standard deviations of the first batch below it are raised towards it, so that a frequency that is always 0
            is not blown up; the ratio to the batch's largest when that is smaller.

    Cost: (height + width) multiplications an entry for each of the two transforms, and ``channels`` for the triangles.
    """
    if not scale_floor > 0:
        raise ValueError(f"expected scale_floor > 0; got {scale_floor}")

    def output_shape(shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ValueError(f"expected events of shape (height, width, channels); got {shape}")
        return shape

    def init(key: jax.Array, shape: Shape) -> Params:
        del key
        return {"shift": jnp.zeros(output_shape(shape)), "factor": jnp.zeros((*shape, shape[-1]))}

    def transform(params: Params, u: jax.Array) -> jax.Array:
        waves = _to_waves(u - params["shift"])
        # row by row, so that nothing stands where a triangle ends
        return _from_waves(jnp.stack([_row(params, waves, c) for c in range(u.shape[-1])], axis=-1))

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        images, waves = _to_waves(v), jnp.zeros_like(v)
        for c in range(v.shape[-1]):
            # what the row makes of the channels before this one is all there is of it so far
            rest = images[..., c] - _row(params, waves, c)
            waves = waves.at[..., c].set(rest * jnp.exp(-params["factor"][..., c, c]))
        return _from_waves(waves) + params["shift"], no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        del u
        return jnp.sum(jnp.diagonal(params["factor"], axis1=-2, axis2=-1))

    def fit_to_data(params: Params, batch: jax.Array) -> Params:
        if batch.shape[0] == 0:
            raise ValueError(f"expected at least one row to start from; got a batch of shape {batch.shape}")
        shift = jnp.mean(batch, axis=0)
        waves = jax.vmap(_to_waves)(batch - shift)
        covariance = jnp.einsum("nhwc,nhwd->hwcd", waves, waves, precision=jax.lax.Precision.HIGHEST) / len(batch)
        variances = jnp.diagonal(covariance, axis1=-2, axis2=-1)
        floor = jnp.minimum(scale_floor, scale_floor * jnp.sqrt(jnp.max(variances)))
        # of a batch that does not vary nothing is known
        floor = jnp.where(floor > 0, floor, 1.0)
        identity = jnp.eye(batch.shape[-1], dtype=batch.dtype)
        lower = jnp.linalg.cholesky(covariance + floor**2 * identity)
        inverse = jax.scipy.linalg.solve_triangular(lower, jnp.broadcast_to(identity, lower.shape), lower=True)
        diagonal = jnp.log(jnp.diagonal(inverse, axis1=-2, axis2=-1))
        return {"shift": shift, "factor": jnp.tril(inverse, -1) + identity * diagonal[..., None]}

    return layer(
        spec=describe("cosine_affine", scale_floor=scale_floor), init=init, transform=transform, invert=invert,
        log_det=log_det, output_shape=output_shape, fit_to_data=fit_to_data,
    )  # fmt: skip


def _row(params: Params, waves: jax.Array, c: int) -> jax.Array:
    """Row c of every triangle times the channels, (height, width)."""
    factor = params["factor"]
    before = jnp.sum(factor[..., c, :c] * waves[..., :c], axis=-1)
    return before + jnp.exp(factor[..., c, c]) * waves[..., c]


def _to_waves(u: jax.Array) -> jax.Array:
    down, across = (jnp.asarray(cosine_matrix(side), u.dtype) for side in u.shape[:2])
    return jnp.einsum("ab,cd,bde->ace", down, across, u, precision=jax.lax.Precision.HIGHEST)


def _from_waves(waves: jax.Array) -> jax.Array:
    down, across = (jnp.asarray(cosine_matrix(side), waves.dtype) for side in waves.shape[:2])
    return jnp.einsum("ba,dc,bde->ace", down, across, waves, precision=jax.lax.Precision.HIGHEST)


EXAMPLES = {
    "cosine_affine": [(cosine_affine(), (4, 2, 3)), (cosine_affine(), (3, 3, 1)), (cosine_affine(), (1, 1, 2))],
}
