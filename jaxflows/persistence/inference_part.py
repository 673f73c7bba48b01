"""The part of a model file that is not the flow: an inference network, what it standardises by, and a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.conditional.row_classifier import RowClassifier, inputs_shape
from jaxflows.conditional.spreads import Moments, Principal, moments_of
from jaxflows.flows import Flow
from jaxflows.networks.inference_network import describe_network, network_from, network_template
from jaxflows.networks.prediction_head import PredictionHead, check_head, fresh_head, head_widths, reads_events


def describe_inference(model: IncompleteModel) -> dict[str, Any]:
    """The network by name and options, how many classes the head knows, and its hidden layers; empty for a flow alone.

    Raises:
        ValueError: a foreign network.
    """
    inner = model.head.head if isinstance(model.head, RowClassifier) else model.head
    head: dict[str, Any] = {} if inner is None else {"classes": int(inner.params["weight"].shape[-1])}
    if inner is not None and reads_events(inner.params):
        head["head_hidden"] = head_widths(inner.params)
    if isinstance(model.head, RowClassifier):
        # 0 for a Gaussian of all directions
        moments = model.head.moments
        head["head_rank"] = moments.directions.shape[1] if isinstance(moments, Principal) else 0
    network = {} if model.posterior is None else describe_network(model.posterior.network)
    return {**network, **head, **({} if model.mask is None else {"mask": "self_masking"})}


def inference_arrays(model: IncompleteModel) -> dict[str, Any]:
    """Every array of a model but the flow's."""
    posterior = model.posterior
    arrays: dict[str, Any] = {}
    if posterior is not None:
        arrays = {"network": posterior.params, "centre": posterior.centre, "spread": posterior.spread}
    head = {} if model.head is None else {"head": model.head}
    # what it standardises by is the network's
    return {**arrays, **head, **({} if model.mask is None else {"mask": model.mask.params})}


def inference_template(inference: Mapping[str, Any], flow: Flow) -> dict[str, Any]:
    """Shapes and dtypes of `inference_arrays`; raises ValueError or TypeError where the description makes no sense."""
    options = dict(inference)
    classes, mask = options.pop("classes", None), options.pop("mask", None)
    widths, rank = [int(width) for width in options.pop("head_hidden", ())], options.pop("head_rank", None)
    check_head(flow.event_shape, widths, classes is not None)
    if mask not in (None, "self_masking"):
        raise ValueError(f"expected a model of the mask that is 'self_masking'; got {mask!r}")
    dtype = jnp.result_type(float)
    event = jax.ShapeDtypeStruct(flow.event_shape, dtype)
    arrays: dict[str, Any] = {}
    # a classifier may stand without a network, a model of the mask may not: it standardises by what the network does
    if options or mask is not None:
        arrays = {
            "network": network_template(network_from(options), flow.event_shape, dtype),
            "centre": event,
            "spread": event,
            **({} if mask is None else {"mask": {"intercept": event, "slope": event}}),
        }
    if classes is None:
        return arrays
    shape = flow.event_shape if rank is None else inputs_shape(flow.event_shape, bool(widths))

    def head() -> Any:
        params = fresh_head(jax.random.key(0), shape, int(classes), widths)
        inner = PredictionHead(params, params["scale"], params["scale"])
        return inner if rank is None else RowClassifier(inner, _any_moments(flow, int(rank)))

    return {**arrays, "head": jax.eval_shape(head)}


def _any_moments(flow: Flow, rank: int) -> Moments | Principal:
    mean = jnp.zeros(flow.event_shape)
    if rank:
        return Principal(mean, jnp.zeros((flow.size, rank)), jnp.ones(()))
    return moments_of(mean, jnp.eye(flow.size))
