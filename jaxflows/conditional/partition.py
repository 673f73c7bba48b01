"""Which part of the latent is free: the partition of the latent space (IVCNF Sec. 3.6, and beyond it).

The constraint pairs the K hidden dimensions of the event with K dimensions of the latent that stay free. Which K is ours to
choose. Let the columns of Q, (d, K), be an orthonormal basis of the tangent space at the anchor y*: the span of the hidden
columns of G(y*). The free latent is T x for some T, (K, d), with orthonormal rows, and how well the pairing is conditioned
there is told by the singular values of T Q, the cosines of the principal angles between the two spaces:

    same      the latent coordinates that the hidden ones have in the event, the paper's choice
    volume    K latent coordinates, chosen greedily for a large |det T Q|
    tangent   T = Q^T: all cosines are 1, no pairing is better conditioned there
    average   the K directions that keep most of the tangent spaces on average over the Gauss-Newton posterior, and so are
              still well conditioned far from the anchor, where a tangent may have turned away

A base of standard normals looks the same in any rotated coordinates. So a partition is a rotation W of the latent that takes
T x to the hidden coordinates, and conditioning the flow W g by its hidden coordinates is conditioning g by T x: solvers,
gradients and weights need not know. The prior on the free latent of the tangent partition is the Gauss-Newton posterior: the
draws are those of randomise-then-optimise (Bardsley et al. 2014), with the exact density of their transport.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work, stay
from jaxflows.bijectors.chain import chain
from jaxflows.conditional.hidden import Hidden, hidden_block, hidden_columns
from jaxflows.flows import Flow

PARTITIONS = ("same", "volume", "tangent", "average")

# smallest cosine at which 'auto' keeps the same coordinates: below it the tangent's draws weigh more evenly
LEAST_OVERLAP = 0.4
POWER_STEPS = 12

# pairs of opposite points over which the average partition takes its mean
PILOT_PAIRS = 16


class Split(NamedTuple):
    """A partition of the latent of one observation.

    Attributes:
        rotation: W in the event's own coordinates, (d, d), or None for the same coordinates.
        scale: T Q, (K, K), bordered by an identity in unused slots.
        inverse_scale: its inverse.
        overlap: its smallest singular value, by inverse iteration from above: 1 when perfect, 0 when singular.
        partition: position in `PARTITIONS`.
    """

    rotation: jax.Array | None
    scale: jax.Array
    inverse_scale: jax.Array
    overlap: jax.Array
    partition: jax.Array


def check_partition(partition: str) -> None:
    """Raise ValueError for an unknown name."""
    if partition not in (*PARTITIONS, "auto"):
        raise ValueError(f"expected a partition of {[*PARTITIONS, 'auto']}; got {partition!r}")


def split_latent(partition: str, where: Hidden, tangent: jax.Array) -> Split:
    """Split the latent by name, at the anchor alone (`average_split` looks further).

    Args:
        partition: 'same', 'volume' or 'tangent'; 'auto' keeps the same coordinates where their overlap is at least
            `LEAST_OVERLAP` and takes the tangent elsewhere.
        where: the hidden subspace, K slots.
        tangent: Q, (d, K), orthonormal columns in the observation's coordinates, zero in unused slots.

    Cost: K^3 for 'same', d^3 for the others.
    """
    same = _split(None, hidden_block(where, tangent), "same")
    if partition == "same":
        return same
    if partition == "volume":
        rotation = _permutation(where, tangent)
        return _split(rotation, hidden_block(where, rotation @ tangent), "volume")
    basis, triangle = jnp.linalg.qr(tangent, mode="complete")
    signs = jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0).astype(basis.dtype)
    turned = _along(basis.at[:, : signs.size].multiply(signs), where, tangent, "tangent")
    if partition == "tangent":
        return turned
    if partition != "auto":
        raise ValueError(f"expected 'same', 'volume', 'tangent' or 'auto'; got {partition!r}")
    keep = same.overlap >= LEAST_OVERLAP
    unturned = same._replace(rotation=jnp.eye(tangent.shape[0], dtype=tangent.dtype))
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), unturned, turned)


def average_split(flow: Flow, params: Params, where: Hidden, anchor: jax.Array, spread: jax.Array, tangent: jax.Array) -> Split:
    """Split the latent by the leading K eigenvectors of the mean of Q Q^T over y* + spread eta, eta ~ N(0, I).

    Args:
        flow, params: the flow.
        where: the hidden subspace, K slots.
        anchor: y*, (*event,).
        spread: (K, K), as in `jaxflows.conditional.gauss_newton.Reference`.
        tangent: Q at y*, (d, K), as in `split_latent`.

    Cost: a linearisation (K JVPs and a K x K factorisation) for each of `PILOT_PAIRS` pairs of points, which are always the
    same ones, and an eigendecomposition of d x d. Nothing is solved.
    """
    half = jax.random.normal(jax.random.key(0), (PILOT_PAIRS, flow.size), anchor.dtype)[:, : where.slots.size]
    border = jnp.diag(jnp.where(where.used, 0.0, 1.0).astype(anchor.dtype))

    def projector(eta: jax.Array) -> jax.Array:
        _, columns = hidden_columns(flow, params, where, anchor + where.expand(spread @ eta))
        normal = columns.T @ columns + border
        ridge = 4 * jnp.finfo(normal.dtype).eps * jnp.trace(normal)
        factor = jnp.linalg.cholesky(normal + ridge * jnp.eye(where.slots.size, dtype=normal.dtype))
        basis = jax.scipy.linalg.solve_triangular(factor, columns.T, lower=True)
        found = basis.T @ basis
        # a point so far out that the flow overflows says nothing
        return jnp.where(jnp.all(jnp.isfinite(found)), found, 0.0)

    def add(total: jax.Array, eta: jax.Array) -> tuple[jax.Array, None]:
        return total + projector(eta), None

    etas = jnp.where(where.used, jnp.concatenate([half, -half]), 0.0)
    total, _ = jax.lax.scan(add, tangent @ tangent.T, etas)
    return _along(jnp.linalg.eigh(total)[1][:, ::-1], where, tangent, "average")


def _along(basis: jax.Array, where: Hidden, tangent: jax.Array, name: str) -> Split:
    """The split whose free latents are those along the first columns of an orthogonal (d, d) basis, as many as are hidden."""
    # the coordinates of the observation, the hidden ones first
    order = jnp.argsort(where.observation.observed.reshape(-1), stable=True)
    rotation = jnp.zeros_like(basis).at[order].set(basis.T)
    return _split(rotation, hidden_block(where, rotation @ tangent), name)


def _split(rotation: jax.Array | None, scale: jax.Array, name: str) -> Split:
    inverse = jnp.linalg.inv(scale)

    def step(_: Any, v: jax.Array) -> jax.Array:
        v = inverse.T @ (inverse @ v)
        return v / jnp.linalg.norm(v)

    # ones, tilted, so that no symmetric matrix has it orthogonal to its leading vector
    start = jnp.cos(jnp.arange(scale.shape[0], dtype=scale.dtype))
    leading = jax.lax.fori_loop(0, POWER_STEPS, step, start / jnp.linalg.norm(start))
    overlap = 1.0 / jnp.linalg.norm(inverse @ leading)
    overlap = jnp.where(jnp.isfinite(overlap), jnp.minimum(overlap, 1.0), 0.0)
    return Split(rotation, scale, inverse, overlap, jnp.asarray(PARTITIONS.index(name), jnp.int32))


def _permutation(where: Hidden, tangent: jax.Array) -> jax.Array:
    """The permutation that takes a set of K latent coordinates of large volume to the hidden ones.

    Greedy: QR of Q^T with column pivoting, one coordinate of largest remaining norm at a time.
    """
    size = tangent.shape[0]
    coordinates = jnp.arange(size)

    def choose(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rest, chosen = carry
        norms = jnp.where(chosen, -1.0, jnp.sum(rest**2, axis=1))
        pick = jnp.argmax(norms)
        direction = rest[pick] / jnp.sqrt(jnp.maximum(norms[pick], jnp.finfo(rest.dtype).tiny))
        taken = where.used[i]
        rest = jnp.where(taken, rest - jnp.outer(rest @ direction, direction), rest)
        return rest, chosen | ((coordinates == pick) & taken)

    _, chosen = jax.lax.fori_loop(0, where.slots.size, choose, (tangent, jnp.zeros(size, bool)))
    # both sets in order: where they are the same set this is the identity
    order = jnp.argsort(where.observation.observed.reshape(-1), stable=True)
    sources = jnp.argsort(~chosen, stable=True)
    return jnp.zeros((size, size), tangent.dtype).at[order, sources].set(1.0)


@functools.cache
def _rotated(flow: Flow) -> Flow:
    return Flow(flow.event_shape, chain(flow.bijector, _rotation(flow)))


@functools.cache
def _rotation(flow: Flow) -> Bijector:
    """x -> W x for an orthogonal W that is its parameter, on the latent moved back to the event's coordinates."""
    inner = flow.bijector
    moves = inner.move is not stay

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return (params @ inner.move_back(u).reshape(-1)).reshape(flow.event_shape)

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        return inner.move((v.reshape(-1) @ params).reshape(flow.event_shape)), no_work(v.dtype)

    def output_shape(shape: Shape) -> Shape:
        del shape
        return flow.event_shape

    return layer(
        spec=describe("rotation"), init=lambda key, shape: jnp.eye(math.prod(shape)), transform=transform, invert=invert,
        log_det=lambda params, u: jnp.zeros((), u.dtype), output_shape=output_shape,
        move=inner.move_back if moves else stay, move_back=inner.move if moves else stay,
    )  # fmt: skip


def framed(flow: Flow, params: Params, rotation: jax.Array | None) -> tuple[Flow, Params]:
    """The flow whose latent is rotated, (W g, (params, W)); the flow itself where there is no rotation."""
    return (flow, params) if rotation is None else (_rotated(flow), (params, rotation))


def in_event_coordinates(where: Hidden, rotation: jax.Array) -> jax.Array:
    """R^T U R, for a rotation U of the observation's coordinates R v."""
    observed = where.observation.observed
    identity = jnp.eye(observed.size, dtype=rotation.dtype).reshape(-1, *observed.shape)
    forth = jax.vmap(where.observation.to_coordinates)(identity).reshape(observed.size, -1).T
    return forth.T @ rotation @ forth
