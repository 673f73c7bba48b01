"""A classifier beside a flow: the paper's linear map of the latents (IVCNF Sec. 4.2.1), or a network on the completed event.

    logits = W net( scale (t - mean) / sqrt(variance + 1e-5) + bias )

Without hidden layers t is the flattened latent and net is nothing: batch normalisation and a linear map without bias. The paper
squeezes the latent first, which only puts its entries into another order, and a linear map of all of them does not see their
order. With hidden layers t is the event, whose neighbouring pixels say more of a class together than latents do one by one; net
are dense layers for vectors, 3x3 convolutions of stride 2 for images, each with a ReLU, and mean and variance are those of a
column, or of all pixels of a channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, Shape
from jaxflows.networks.half_precision import in_bfloat16

_LEAST_VARIANCE = 1e-5


class PredictionHead(NamedTuple):
    """A trained head.

    Attributes:
        params: of `head_logits`.
        mean: of the training rows' latents, (d,), or of their events, as `fresh_head` says.
        variance: likewise.
    """

    params: Params
    mean: jax.Array
    variance: jax.Array

    def logits(self, t: jax.Array) -> jax.Array:
        """(n, classes) of flattened latents (n, d), or of events (n, *event) where the head `reads_events`."""
        return head_logits(self.params, t, self.mean, self.variance)


def fresh_head(key: jax.Array, event_shape: Shape, classes: int, hidden: Sequence[int] = ()) -> Params:
    """Parameters at which every class has the same chance.

    Args:
        key: of the hidden layers.
        event_shape: of the flow; of rank 1, 2 or 3 for hidden layers (`check_head`).
        classes: how many.
        hidden: units or channels of each hidden layer on the event; none for the linear map of the latents.

    Returns:
        "scale" and "bias" have the shape of mean and variance: (d,) for latents and vectors, (1, 1) for images without an axis
        of channels, (1, 1, channels) with one.
    """
    if not hidden:
        shape: Shape = (math.prod(event_shape),)
        return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape), "weight": jnp.zeros((*shape, classes))}
    channels = event_shape[-1] if len(event_shape) != 2 else 1
    shape = {1: (channels,), 2: (1, 1), 3: (1, 1, channels)}[len(event_shape)]
    window = () if len(event_shape) == 1 else (3, 3)
    layers = {}
    inputs = channels
    for number, width in enumerate(hidden):
        k = jax.random.fold_in(key, number)
        kernel = jax.nn.initializers.he_normal()(k, (*window, inputs, width), jnp.result_type(float))
        layers[str(number)] = {"kernel": kernel, "bias": jnp.zeros(width)}
        inputs = width
    params = {"scale": jnp.ones(shape), "bias": jnp.zeros(shape), "hidden": layers}
    features = jax.eval_shape(lambda t: _features(layers, t), jax.ShapeDtypeStruct((1, *event_shape), jnp.result_type(float)))
    return params | {"weight": jnp.zeros((features.shape[-1], classes))}


def check_head(event_shape: Shape, hidden: Sequence[int], labelled: bool) -> None:
    """Raise ValueError for hidden layers that cannot be, or that are of no classifier."""
    if hidden and not labelled:
        raise ValueError(f"expected labels for a classifier with head_hidden={tuple(hidden)}; got none")
    if any(width < 1 for width in hidden):
        raise ValueError(f"expected head_hidden to be widths >= 1; got {tuple(hidden)}")
    if hidden and len(event_shape) not in (1, 2, 3):
        raise ValueError(f"expected an event of rank 1, 2 or 3 for a head with hidden layers; got shape {event_shape}")


def head_widths(params: Params) -> list[int]:
    """Of the hidden layers."""
    layers = params.get("hidden", {})
    return [int(layers[str(number)]["bias"].size) for number in range(len(layers))]


def reads_events(params: Params) -> bool:
    """Whether a head looks at events, in place of flattened latents."""
    return "hidden" in params


def head_logits(
    params: Params, t: jax.Array, mean: jax.Array, variance: jax.Array, *, half: bool = False,
    dropout: tuple[jax.Array, float] | None = None,
) -> jax.Array:  # fmt: skip
    """(n, classes) of latents (n, d) or events (n, *event), normalised by these statistics.

    ``half`` multiplies in bfloat16; ``dropout`` is a key, and the chance of a feature of the last hidden layer to be left out.
    """
    normal = params["scale"] * ((t - mean) * jax.lax.rsqrt(variance + _LEAST_VARIANCE)) + params["bias"]
    layers, weight = params.get("hidden", {}), params["weight"]
    if half:
        normal, layers, weight = in_bfloat16((normal, layers, weight))
    features = _features(layers, normal)
    if dropout is not None:
        key, chance = dropout
        features *= jax.random.bernoulli(key, 1.0 - chance, features.shape).astype(features.dtype) / (1.0 - chance)
    return jnp.matmul(features, weight, preferred_element_type=t.dtype)


def _features(layers: Params, t: jax.Array) -> jax.Array:
    """(n, features) of (n, *event)."""
    t = t[..., None] if layers and t.ndim == 3 else t
    for number in range(len(layers)):
        kernel, bias = (layers[str(number)][name] for name in ("kernel", "bias"))
        if t.ndim == 2:
            t = t @ kernel
        else:
            t = jax.lax.conv_general_dilated(t, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        t = jax.nn.relu(t + bias)
    return t.reshape(len(t), -1)


def weighted_moments(t: jax.Array, weights: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of latents (n, d) or events (n, *event) with weights (n,), in the shapes that the head takes."""
    share = weights / jnp.maximum(jnp.sum(weights), 1.0)
    shape = params["scale"].shape
    pooled = tuple(axis for axis, length in enumerate(shape) if length != t.shape[1 + axis])

    def average(values: jax.Array) -> jax.Array:
        return jnp.mean(jnp.tensordot(share, values, 1), axis=pooled, keepdims=True)

    mean = average(t)
    return mean, average((t - mean) ** 2)


def head_loss(
    params: Params, t: jax.Array, usable: jax.Array, labels: jax.Array, *, half: bool = False,
    dropout: tuple[jax.Array, float] | None = None,
) -> jax.Array:  # fmt: skip
    """Mean cross-entropy in nats over the usable rows with a label, normalised by the moments of all usable ones.

    Args:
        params: of `head_logits`.
        t: (n, d), or (n, *event) where the head `reads_events`.
        usable: (n,) boolean.
        labels: (n,) integers, -1 where unknown. 0 is returned when no label is known.
        half, dropout: as in `head_logits`.
    """
    mean, variance = weighted_moments(t, usable.astype(t.dtype), params)
    log_probs = jax.nn.log_softmax(head_logits(params, t, mean, variance, half=half, dropout=dropout))
    known = usable & (labels >= 0)
    picked = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(known, picked, 0.0)) / jnp.maximum(jnp.sum(known), 1)
