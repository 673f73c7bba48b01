"""Inference networks: from what was seen of a row to the mean and log-deviation of its free latent (IVCNF Appendix C).

A network is a flax module ``(standard, observed) -> (mu, log_sigma)`` on one event or a batch of them, all four arrays of
the event's shape. ``standard`` holds the observed entries, centred on their median and divided by their standard deviation,
and 0, that is the median, where hidden. The outputs where observed mean nothing. Any such module will do; those here
start at mu = 0 and log_sigma = 0, so that q starts at the prior N(0, I).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxflows.bijectors.base import Params, Shape


def _affine(features: int, spatial: bool, **options: Any) -> nn.Module:
    dtype = jnp.result_type(float)
    if spatial:
        return nn.Conv(features, kernel_size=(3, 3), param_dtype=dtype, **options)
    return nn.Dense(features, param_dtype=dtype, **options)


class ConvInference(nn.Module):
    """The paper's network: 3x3 convolutions with ReLU between, and one more, started at 0, to the two outputs.

    Attributes:
        rank: of the event: 2 for (height, width), 3 for (height, width, channels).
        channels: of each layer; the paper's when left out.
    """

    rank: int
    channels: tuple[int, ...] = (4, 8, 16, 32, 8)

    @nn.compact
    def __call__(self, standard: jax.Array, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both (*event,), with any batch axes in front."""
        flat = self.rank == 2
        t, seen = (u[..., None] if flat else u for u in (standard, observed.astype(standard.dtype)))
        outputs = t.shape[-1]
        t = jnp.concatenate([t, seen], axis=-1)
        for features in self.channels:
            t = nn.relu(_affine(features, True)(t))
        t = _affine(2 * outputs, True, kernel_init=nn.initializers.zeros)(t)
        mu, log_sigma = jnp.split(t, 2, axis=-1)
        return (mu[..., 0], log_sigma[..., 0]) if flat else (mu, log_sigma)


class DenseInference(nn.Module):
    """A multilayer perceptron on vectors, SiLU between, the last layer started at 0.

    Attributes:
        widths: of the hidden layers.
    """

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, standard: jax.Array, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both (d,), with any batch axes in front."""
        t = jnp.concatenate([standard, observed.astype(standard.dtype)], axis=-1)
        for width in self.widths:
            t = nn.silu(_affine(width, False)(t))
        t = _affine(2 * standard.shape[-1], False, kernel_init=nn.initializers.zeros)(t)
        mu, log_sigma = jnp.split(t, 2, axis=-1)
        return mu, log_sigma


def inference_network(event_shape: Shape) -> nn.Module:
    """The default network: convolutions for images (rank 2 or 3), a perceptron for vectors.

    Raises:
        ValueError: an event of another rank, for which there is no default.
    """
    if len(event_shape) == 1:
        return DenseInference()
    if len(event_shape) in (2, 3):
        return ConvInference(len(event_shape))
    raise ValueError(f"expected an event of rank 1, 2 or 3 for the default inference network; got shape {event_shape}")


# what a model file calls them
NETWORKS: dict[str, type[nn.Module]] = {"conv": ConvInference, "dense": DenseInference}


def describe_network(network: nn.Module) -> dict[str, Any]:
    """A network of this module by name and options, in JSON values.

    Raises:
        ValueError: a network of another module, whose code no description could hold.
    """
    name = next((name for name, kind in NETWORKS.items() if type(network) is kind), None)
    if name is None:
        raise ValueError(
            f"expected a network of jaxflows.networks.inference_network; got {type(network).__name__}, whose code is the "
            "caller's own"
        )
    return {"network": name, **{option: getattr(network, option) for option in _options(type(network))}}


def network_from(description: Mapping[str, Any]) -> nn.Module:
    """The network of a description.

    Raises:
        ValueError: an unknown name, or other options than the network's own.
    """
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in description.items()}
    kind = NETWORKS.get(str(options.pop("network", None)))
    if kind is None or set(options) != _options(kind):
        raise ValueError(f"expected a network of {sorted(NETWORKS)} with its options; got {dict(description)}")
    return kind(**options)


def _options(kind: type[nn.Module]) -> set[str]:
    fields: Any = kind
    return {field.name for field in dataclasses.fields(fields)} - {"parent", "name"}


def network_template(network: nn.Module, event_shape: Shape, dtype: Any) -> Params:
    """Shapes and dtypes of a network's parameters, its outputs checked; nothing is computed.

    Raises:
        ValueError: outputs that are not two events, or state beside the parameters (such as running statistics).
    """
    example = (jax.ShapeDtypeStruct(event_shape, dtype), jax.ShapeDtypeStruct(event_shape, bool))
    variables = jax.eval_shape(network.init, jax.random.key(0), *example)
    if set(variables) != {"params"}:
        raise ValueError(f"expected an inference network with parameters alone; got the collections {sorted(variables)}")
    outputs = jax.eval_shape(network.apply, variables, *example)
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(outputs)]
    if shapes != [tuple(event_shape)] * 2:
        raise ValueError(f"expected an inference network with two outputs of shape {event_shape}; got {shapes}")
    return variables["params"]


def fresh_network(key: jax.Array, network: nn.Module, event_shape: Shape, dtype: Any) -> Params:
    """Parameters of an inference network; raises ValueError as `network_template` does."""
    network_template(network, event_shape, dtype)
    return jax.jit(network.init)(key, jnp.zeros(event_shape, dtype), jnp.zeros(event_shape, bool))["params"]
