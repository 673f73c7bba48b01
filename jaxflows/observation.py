"""An observation is an orthogonal projector (docs/design.md, section 2).

P_O = R^T diag(m) R for an orthogonal R and a mask m in R's coordinates; P_H = I - P_O. For a mask R is the identity; for
a full-row-rank operator A the first rank(A) rows of R span the rows of A. Solvers see the projector alone; posteriors,
which need coordinates of the hidden subspace, see R and m. Nothing depends on how many entries are hidden, so a batch
may hold a different mask per row and nothing recompiles when the mask changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxflows.precision import full_precision


class Observation(NamedTuple):
    """What was measured, as a pytree of arrays; ``vmap`` over it for a batch of different observations.

    Attributes:
        project: ``v -> P_O v`` for an event-shaped v.
        paste: ``(y, y_observed) -> y`` with its observed part replaced; a mask's entries are copied bit for bit.
        to_coordinates: ``v -> R v``, event shape kept.
        from_coordinates: ``c -> R^T c``.
        observed: boolean, event-shaped: which coordinates of R v were observed.
    """

    project: Partial
    paste: Partial
    to_coordinates: Partial
    from_coordinates: Partial
    observed: jax.Array

    def observed_part(self, v: jax.Array) -> jax.Array:
        """P_O v."""
        return self.project(v)

    def hidden_part(self, v: jax.Array) -> jax.Array:
        """P_H v = v - P_O v."""
        return v - self.project(v)

    def restore(self, y: jax.Array, y_observed: jax.Array) -> jax.Array:
        """y with its observed part replaced by that of y_observed."""
        return self.paste(y, y_observed)

    def complement(self) -> Observation:
        """The observation of what this one hides."""
        project = Partial(_complement, self.project)
        return self._replace(project=project, paste=Partial(_paste_projected, project), observed=~self.observed)

    def moved(self, move: Callable[..., jax.Array], move_back: Callable[..., jax.Array]) -> Observation:
        """The same observation of an event whose entries a layer has moved."""
        forth, back = Partial(move), Partial(move_back)
        return Observation(
            project=Partial(_compose, forth, Partial(_compose, self.project, back)),
            paste=Partial(_paste_moved, forth, back, self.paste),
            to_coordinates=Partial(_compose, self.to_coordinates, back),
            from_coordinates=Partial(_compose, forth, self.from_coordinates),
            observed=self.observed,
        )


def _compose(second: Partial, first: Partial, v: jax.Array) -> jax.Array:
    return second(first(v))


def _complement(project: Partial, v: jax.Array) -> jax.Array:
    return v - project(v)


def _paste_projected(project: Partial, y: jax.Array, y_observed: jax.Array) -> jax.Array:
    return y + project(y_observed - y)


def _paste_mask(observed: jax.Array, y: jax.Array, y_observed: jax.Array) -> jax.Array:
    return jnp.where(observed, y_observed, y)


def _paste_moved(forth: Partial, back: Partial, paste: Partial, y: jax.Array, y_observed: jax.Array) -> jax.Array:
    return forth(paste(back(y), back(y_observed)))


def _identity(v: jax.Array) -> jax.Array:
    return v


def _project_mask(observed: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.where(observed, v, 0.0)


@full_precision
def _project_basis(basis: jax.Array, v: jax.Array) -> jax.Array:
    return (basis @ (v.reshape(-1) @ basis)).reshape(v.shape)


@full_precision
def _apply_matrix(matrix: jax.Array, v: jax.Array) -> jax.Array:
    return (matrix @ v.reshape(-1)).reshape(v.shape)


def mask(observed: Any) -> Observation:
    """Observe the entries where ``observed`` is True.

    Args:
        observed: boolean, event-shaped; may be traced, so one compiled program serves every mask.

    Raises:
        ValueError: when the dtype is not boolean.
    """
    observed = jnp.asarray(observed)
    if observed.dtype != jnp.bool_:
        raise ValueError(f"expected a boolean mask, True where observed; got dtype {observed.dtype}")
    return Observation(
        project=Partial(_project_mask, observed),
        paste=Partial(_paste_mask, observed),
        to_coordinates=Partial(_identity),
        from_coordinates=Partial(_identity),
        observed=observed,
    )


def is_mask(observation: Observation) -> bool:
    """Whether it observes entries of the event itself, rather than of a rotation of it."""
    return observation.to_coordinates.func is _identity


class LinearMeasurement(NamedTuple):
    """A full-row-rank linear measurement b = A y, factorised once.

    Attributes:
        observation: the projector onto the rows of A.
        pseudo_inverse: ``b -> A^+ b``, the event-shaped y_observed of the measurements b, (m,).
        measure: ``y -> A y``, (m,).
    """

    observation: Observation
    pseudo_inverse: Partial
    measure: Partial


@full_precision
def _measure(matrix: jax.Array, y: jax.Array) -> jax.Array:
    return matrix @ y.reshape(-1)


@full_precision
def _pseudo_inverse(matrix: jax.Array, event_like: jax.Array, b: jax.Array) -> jax.Array:
    return (matrix @ b).reshape(event_like.shape)


@full_precision
def linear(operator: Any, event_shape: tuple[int, ...] | None = None, transpose: Any = None) -> LinearMeasurement:
    """Observe b = A y for a full-row-rank A, given as a matrix or as a function.

    Args:
        operator: a matrix (m, d) on the flattened event, or a linear function from one event to an array of m numbers.
        event_shape: shape of an event; (d,) when left out for a matrix, required for a function.
        transpose: the adjoint function, checked against ``operator`` when given; not needed.

    Returns:
        The measurement: projector, pseudo-inverse and the operator itself, as pytrees of arrays.

    Raises:
        ValueError: not linear, not finite, more measurements than dimensions, or rank deficient (the message names the
            rank); an adjoint that is not the operator's.

    Cost: a QR factorisation of the d x d basis, once; then 4 d m multiplications a projection.
    """
    matrix, shape = _materialise(operator, event_shape)
    m, d = matrix.shape
    if not np.all(np.isfinite(matrix)):
        raise ValueError("expected finite operator entries; got NaN or infinity")
    if m > d:
        raise ValueError(f"expected at most {d} measurements of an event of size {d}; got {m}")
    if transpose is not None:
        _check_adjoint(matrix, shape, transpose)
    basis, triangle = np.linalg.qr(matrix.T.astype(np.float64), mode="complete")
    values = np.linalg.svd(triangle[:m, :m], compute_uv=False)
    rank = int(np.sum(values > max(m, d) * np.finfo(np.float32).eps * np.max(values, initial=0.0)))
    if rank < m:
        raise ValueError(f"expected an operator of full row rank {m}; got rank {rank}")
    inverse = basis[:, :m] @ np.linalg.inv(triangle[:m, :m]).T
    dtype = jnp.result_type(float)
    rotation = jnp.asarray(basis.T, dtype)
    project = Partial(_project_basis, jnp.asarray(basis[:, :m], dtype))
    observation = Observation(
        project=project,
        paste=Partial(_paste_projected, project),
        to_coordinates=Partial(_apply_matrix, rotation),
        from_coordinates=Partial(_apply_matrix, rotation.T),
        observed=jnp.asarray((np.arange(d) < m).reshape(shape)),
    )
    return LinearMeasurement(
        observation,
        Partial(_pseudo_inverse, jnp.asarray(inverse, dtype), jnp.zeros(shape, dtype)),
        Partial(_measure, jnp.asarray(matrix, dtype)),
    )


def _materialise(operator: Any, event_shape: tuple[int, ...] | None) -> tuple[np.ndarray, tuple[int, ...]]:
    if not callable(operator):
        matrix = np.asarray(operator)
        if matrix.ndim != 2:
            raise ValueError(f"expected a matrix (measurements, event size); got shape {matrix.shape}")
        shape = (matrix.shape[1],) if event_shape is None else tuple(event_shape)
        if int(np.prod(shape)) != matrix.shape[1]:
            raise ValueError(f"expected a matrix with {int(np.prod(shape))} columns for events {shape}; got {matrix.shape[1]}")
        return matrix, shape
    if event_shape is None:
        raise ValueError("expected event_shape together with an operator given as a function; got none")
    shape = tuple(event_shape)
    size = int(np.prod(shape))

    def flat(v: jax.Array) -> jax.Array:
        return jnp.ravel(operator(v.reshape(shape)))

    matrix = np.asarray(jax.lax.map(flat, jnp.eye(size))).T
    probe = np.random.default_rng(0).standard_normal(size).astype(matrix.dtype)
    seen, meant = np.asarray(flat(jnp.asarray(probe))), matrix @ probe
    if not np.allclose(seen, meant, rtol=1e-3, atol=1e-3 * (1e-6 + np.max(np.abs(meant), initial=0.0))):
        raise ValueError("expected a linear operator; got one whose value at a random event is not the sum of its parts")
    return matrix, shape


def _check_adjoint(matrix: np.ndarray, shape: tuple[int, ...], transpose: Any) -> None:
    probe = np.random.default_rng(1).standard_normal((matrix.shape[0],)).astype(matrix.dtype)
    seen, meant = np.ravel(np.asarray(transpose(jnp.asarray(probe)))), matrix.T @ probe
    if seen.shape != meant.shape or not np.allclose(seen, meant, rtol=1e-3, atol=1e-3 * np.max(np.abs(meant), initial=1e-6)):
        raise ValueError(f"expected transpose to be the adjoint of the operator on events {shape}; it is not")
