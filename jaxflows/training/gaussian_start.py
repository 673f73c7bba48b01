"""Parameters with which a flow IS a Gaussian, to begin training where the Gaussian ends.

A flow that begins with affine layers, the last of them `jaxflows.bijectors.triangular.triangular_affine`, is one where that is
the inverse Cholesky factor of what the layers before it leave, and the rest, as couplings do, starts at the identity. Of a
dense residual flow it takes more. With C = U diag(lambda) U^T and a scale s, L blocks of h(u) = U diag(delta) U^T u,
delta_i = (s / sqrt(lambda_i))^(1/L) - 1, are

    (I + U diag(delta) U^T)^L (y - mean) / s  =  U diag(lambda)^{-1/2} U^T (y - mean),

the symmetric whitening. A block has as many directions as hidden units; of the others s^2 is the mean variance, which is
probabilistic principal components (Tipping and Bishop 1999). clipswish makes the map linear: it returns p(t) and
p(t) - t / 1.1044, whose difference by weights B and -B is t B / 1.1044. The certified constant of the pair is sqrt(2) times the
map's own, which leaves |delta| <= 0.6 (0.5 with idle units): in eight blocks deviations may differ 65,000-fold, and of
principal components exceed s 1,500-fold.

Source: ours.
"""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params
from jaxflows.bijectors.registry import from_spec
from jaxflows.flows import Flow
from jaxflows.flows.entrywise import Behind, behind_entrywise
from jaxflows.lipschitz.activations import activation
from jaxflows.lipschitz.networks import MARGIN
from jaxflows.metrics.gaussian_baseline import Gaussian
from jaxflows.metrics.nonparanormal import Nonparanormal
from jaxflows.training.step import settle

# of the first layer's norm, what hidden units get that the Gaussian leaves unused
IDLE_SHARE = 0.5

# affine layers that a triangular one may follow, and the draws that they are fitted to
AFFINE = ("actnorm", "cosine_affine")
FRONT_DRAWS = 4096

# variances are taken no smaller than this, relative to the largest
LEAST_VARIANCE = 1e-12


def gaussian_start(key: jax.Array, flow: Flow, gaussian: Gaussian | Nonparanormal) -> Params:
    """Parameters under which the density of a flow is, about, that of a Gaussian.

    Args:
        key: of the weights that the Gaussian leaves unused.
        flow: `jaxflows.flows.residual` with one hidden layer of clipswish and no logit, or
            ``jaxflows.flows.whitened_image(..., whitening="full")``, with ``marginals`` before a nonparanormal.
        gaussian: of the flow's events, such as `jaxflows.metrics.fit_gaussian_pairs`, `fit_gaussian_em` or `fit_gaussian`
            gives; give `jaxflows.fit` or `jaxflows.fit_incomplete` the result as ``params``. For a flow that begins with an
            `elementwise_spline` a `jaxflows.metrics.fit_nonparanormal` with the same.

    Returns:
        Parameters inside the flow's Lipschitz constraint. The density is the Gaussian's own under couplings. Of residual
        blocks it is where there are as many hidden units as entries and its deviations differ by less than the blocks can
        stretch; else that of its principal components, stretched as far as they can be.

    Raises:
        ValueError: another flow, a Gaussian of other events or without any variance, or a spline before one and not the other.

    Cost: O(d^3), once.

    Example:
        >>> gaussian = jf.metrics.fit_gaussian_pairs(table, ~np.isnan(table))
        >>> start = jf.gaussian_start(jax.random.key(0), flow, gaussian)
        >>> model, report = jf.fit_incomplete(jax.random.key(1), flow, table, ~np.isnan(table), params=start)
    """
    behind = behind_entrywise(flow)
    check_front(behind, gaussian)
    if behind is not None and isinstance(gaussian, Nonparanormal):
        return (gaussian.params, *gaussian_start(key, behind.flow, gaussian.gaussian))
    assert isinstance(gaussian, Gaussian)
    options = None if _front(flow) >= 0 else _options(flow)
    if tuple(gaussian.event_shape) != flow.event_shape:
        raise ValueError(f"expected a Gaussian of events {flow.event_shape}; got {tuple(gaussian.event_shape)}")
    variances, vectors = np.linalg.eigh(np.asarray(gaussian.factor, float) @ np.asarray(gaussian.factor, float).T)
    if not variances[-1] > 0:
        raise ValueError(f"expected a Gaussian with a variance above 0; got {variances[-1]}")
    variances = np.maximum(variances, LEAST_VARIANCE * variances[-1])
    mean = np.asarray(gaussian.mean, float).reshape(-1)
    if options is None:
        return _triangular_start(key, flow, mean, (vectors * variances) @ vectors.T)
    return _residual_start(key, flow, mean, variances, vectors, *options)


def _triangular_start(key: jax.Array, flow: Flow, mean: np.ndarray, covariance: np.ndarray) -> Params:
    front = _front(flow)
    before = [from_spec(json.dumps(description)) for description in _layers(flow)[:front]]
    k_flow, k_draws = jax.random.split(key)
    params = list(flow.init(k_flow))
    dtype = jnp.result_type(params[front]["factor"])
    # the layers before the triangle are fitted to draws: whatever they become, it makes up for
    root = jnp.asarray(np.linalg.cholesky(covariance), dtype)
    normal = jax.random.normal(k_draws, (FRONT_DRAWS, flow.size), dtype)
    rows = (jnp.asarray(mean, dtype) + normal @ root.T).reshape(-1, *flow.event_shape)
    for number, layer in enumerate(before):
        params[number] = layer.fit_to_data(params[number], rows)
        rows = jax.vmap(functools.partial(layer.transform, params[number]))(rows)

    def through(u: jax.Array) -> jax.Array:
        for number, layer in enumerate(before):
            u = layer.transform(params[number], u)
        return u.reshape(-1)

    centre = jnp.asarray(mean.reshape(flow.event_shape), dtype)
    columns = jax.lax.map(
        lambda v: jax.jvp(through, (centre,), (v,))[1], jnp.eye(flow.size, dtype=dtype).reshape(-1, *flow.event_shape)
    )
    whitened = np.asarray(columns, float).T
    triangle = np.linalg.inv(np.linalg.cholesky(whitened @ covariance @ whitened.T))
    factor = np.tril(triangle, -1) + np.diag(np.log(np.diagonal(triangle)))
    shift = through(centre).reshape(params[front]["shift"].shape)
    params[front] = {"shift": shift, "factor": jnp.asarray(factor, dtype)}
    return settle(flow, tuple(params))


def _residual_start(
    key: jax.Array, flow: Flow, mean: np.ndarray, variances: np.ndarray, vectors: np.ndarray, blocks: int, hidden: int,
    coeff: float,
) -> Params:  # fmt: skip
    used = min(hidden, flow.size)
    # with all entries the scale of least |delta|; with principal components what the others have left
    left = variances[: flow.size - used]
    ends = variances[[0, -1]] ** (0.5 / blocks)
    scale = math.sqrt(float(left.mean())) if left.size else float(2.0 / np.sum(1.0 / ends)) ** blocks
    variances, vectors = variances[flow.size - used :], vectors[:, flow.size - used :]
    bound = math.sqrt(coeff * (1.0 - MARGIN))
    phi = activation("clipswish").apply(jnp.zeros(1), jnp.ones(1))
    slope = float(phi[0] - phi[1])
    # side by side, the norms of the used and of the idle units add up in squares
    share = bound if used == hidden else bound * math.sqrt(1.0 - IDLE_SHARE**2)
    most = share * bound * slope / math.sqrt(2.0)
    delta = np.clip((scale / np.sqrt(variances)) ** (1.0 / blocks) - 1.0, -most, most)

    actnorm, (first, second) = flow.init(key)
    dtype = first["weight"].dtype
    centre = mean / scale
    turned = vectors @ (delta * (vectors.T @ centre))
    bias = np.zeros((blocks, flow.size))
    bias[0] = -centre - turned
    inward = np.asarray(first["weight"], float).copy()
    inward[:, :, :used] = share * vectors
    outward = np.zeros(second["weight"].shape)
    outward[:, :used] = (delta / (slope * share))[:, None] * vectors.T
    outward[:, hidden : hidden + used] = -outward[:, :used]
    if used < hidden:
        # idle units see the event but say nothing yet: with weights of zero on both sides they would never learn
        idle = inward[:, :, used:]
        inward[:, :, used:] *= IDLE_SHARE * bound / np.linalg.norm(idle, 2, axis=(1, 2))[:, None, None]
    params = (
        {"shift": jnp.zeros_like(actnorm["shift"]), "log_scale": jnp.full_like(actnorm["log_scale"], -math.log(scale))},
        [
            {**first, "weight": jnp.asarray(inward, dtype), "bias": jnp.zeros_like(first["bias"])},
            {**second, "weight": jnp.asarray(outward, dtype), "bias": jnp.asarray(bias, dtype)},
        ],
    )
    return settle(flow, params)


def check_front(behind: Behind | None, gaussian: Gaussian | Nonparanormal) -> None:
    """Raise ValueError where a flow begins with another entrywise map than the Gaussian, or one of them with none."""
    of_flow = None if behind is None else behind.front.spec
    of_gaussian = gaussian.front.spec if isinstance(gaussian, Nonparanormal) else None
    if of_flow != of_gaussian:
        raise ValueError(f"expected a Gaussian with the map of entries that the flow begins with, {of_flow}; got {of_gaussian}")


def can_start_gaussian(flow: Flow) -> bool:
    """Whether `gaussian_start` has parameters of the flow."""
    behind = behind_entrywise(flow)
    flow = flow if behind is None else behind.flow
    if _front(flow) >= 0:
        return True
    try:
        _options(flow)
    except ValueError:
        return False
    return True


def _layers(flow: Flow) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = json.loads(flow.bijector.spec).get("layers", [])
    return layers


def _front(flow: Flow) -> int:
    """How many affine layers are before a triangular one; -1 where a flow begins otherwise."""
    for number, layer in enumerate(_layers(flow)):
        if layer["bijector"] == "triangular_affine":
            return number
        if layer["bijector"] not in AFFINE:
            break
    return -1


def _options(flow: Flow) -> tuple[int, int, float]:
    """Blocks, hidden units and Lipschitz constant of `jaxflows.flows.residual`; ValueError for another flow."""
    layers = _layers(flow)
    body = layers[1].get("body", {}) if [layer["bijector"] for layer in layers] == ["actnorm", "scan_chain"] else {}
    if body.get("bijector") != "residual_dense" or body["activation"] != "clipswish" or len(body["hidden"]) != 1:
        raise ValueError(
            "expected a flow of jaxflows.flows.residual with one hidden layer, the activation 'clipswish' and no logit, or of "
            f"whitened_image(whitening='full'): others cannot start at a Gaussian; got {flow.bijector.spec}"
        )
    return layers[1]["depth"], body["hidden"][0], body["coeff"]
