"""A classifier of rows with holes that reads what was observed of them, and what a Gaussian makes of the rest.

Completions drawn from p(y_H | y_O) say no more of the class than y_O does, and of a few in a hundred entries they say it
through noise: a classifier has to undo it. What is read here is a function of y_O and of the mask M alone,

    E[y | y_O],   M (y - E y),   M,

the conditional mean of a Gaussian of the rows, what was observed, centred, and where.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.conditional.spreads import Moments, Principal, conditional_spread, gaussian_completion
from jaxflows.data.incomplete_rows import check_finite, filled_up, with_holes
from jaxflows.networks.prediction_head import PredictionHead, reads_events
from jaxflows.observation import mask
from jaxflows.precision import full_precision

# rows classified at a time
AT_ONCE = 256


class RowClassifier(NamedTuple):
    """A trained classifier of rows with holes.

    Attributes:
        head: of the inputs.
        moments: the Gaussian of the rows.
    """

    head: PredictionHead
    moments: Moments | Principal

    def chances(self, rows: Any, observed: Any) -> np.ndarray:
        """P(class | y_O) of rows (n, *event) with boolean masks (n, *event), True where observed: (n, classes).

        Hidden entries may be anything; of a row with nothing observed it is about the share of the classes.

        Raises:
            ValueError: rows of another shape, a mask that does not fit, or observed entries that are not finite.
        """
        values, seen = checked_rows(rows, observed, self.moments.mean.shape)
        parts = []
        for start in range(0, len(values), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            parts.append(np.asarray(_chances(self, *filled_up(values[some], seen[some])))[: len(values[some])])
        return np.concatenate(parts) if parts else np.zeros((0, self.head.params["weight"].shape[-1]), np.float32)


def checked_rows(rows: Any, observed: Any, shape: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows, 0 where hidden, in the dtype of computation, and masks; ValueError or TypeError for others."""
    values, seen = with_holes(np.asarray(rows), observed)
    if values.ndim < 2 or (shape is not None and values.shape[1:] != shape):
        wanted = "(n, *event)" if shape is None else f"(n, {', '.join(map(str, shape))})"
        raise ValueError(f"expected rows of shape {wanted}; got {values.shape}")
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or np.iscomplexobj(values):
        raise TypeError(f"expected rows of real numbers; got dtype {values.dtype}")
    values = values.astype(jnp.result_type(float))
    check_finite(values)
    return values, seen


def inputs_shape(event_shape: tuple[int, ...], spatial: bool) -> tuple[int, ...]:
    """Of `inputs`: three channels for each of an image, or three vectors."""
    if spatial and len(event_shape) > 1:
        return (*event_shape[:2], 3 * math.prod(event_shape[2:]))
    return (3 * math.prod(event_shape),)


def inputs(moments: Moments | Principal, y: jax.Array, observed: jax.Array, spatial: bool) -> jax.Array:
    """E[y | y_O], M (y - E y) and M of ONE row: as channels of an image, else one after the other."""
    observation = mask(observed)
    known = observation.observed_part(y)
    spread = conditional_spread(moments, observation)
    mean = gaussian_completion(moments, observation, spread, known, moments.mean)
    told = [mean, observation.observed_part(y - moments.mean), observed.astype(y.dtype)]
    shape = inputs_shape(y.shape, spatial)
    return jnp.stack(told, axis=0 if len(shape) == 1 else -1).reshape(shape)


@functools.partial(jax.jit, static_argnums=0)
@full_precision
def inputs_of(spatial: bool, moments: Moments | Principal, rows: Any, observed: Any) -> jax.Array:
    """`inputs` of rows (n, *event). Memory: that of n rank d numbers."""
    return jax.vmap(lambda y, m: inputs(moments, y, m, spatial))(rows, observed)


@jax.jit
def _chances(classifier: RowClassifier, rows: jax.Array, observed: jax.Array) -> jax.Array:
    spatial = reads_events(classifier.head.params)
    return jax.nn.softmax(classifier.head.logits(inputs_of(spatial, classifier.moments, rows, observed)))
