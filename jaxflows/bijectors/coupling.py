"""Coupling layers: half of the event passes unchanged and says how the other half is mapped, entry by entry.

    v_A = u_A,   v_B = tau(u_B; N(u_A)),   log|det dv/du| = sum_B log tau'(u_B)

N is any network, `jaxflows.networks.residual_network`; tau is affine (Dinh et al. 2017, RealNVP), a shift (Dinh et al.
2015, NICE) or a spline (`jaxflows.bijectors.spline`). Both directions are explicit. Entries stay in place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Bijector, LogDet, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.factory import factory
from jaxflows.networks.residual_network import ResidualNetwork, fresh_parameters

# (numbers from the network, entries) -> (images, log-slopes); numbers on a last axis of their own
Elementwise = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@factory
def affine_coupling(
    *,
    hidden: int,
    blocks: int = 2,
    network: str = "dense",
    split: str = "half",
    parity: int = 0,
    bound: float = 2.0,
) -> Bijector:
    """v_B = u_B exp(s) + t with (t, r) = N(u_A) and s = bound tanh(r / bound): the log-scale cannot overflow.

    Starts at the identity. Cost: one evaluation of N either way.

    Args:
        hidden, blocks: width and residual blocks of N, `jaxflows.networks.residual_network.ResidualNetwork`.
        network: 'dense' flattens the event; 'conv' takes (height, width, channels).
        split: 'half', of the flat event or of the channels, or 'checkerboard', every other flat entry or pixel.
        parity: 0 changes the second half, or the odd entries; 1 the others. A body of both parities changes everything.
        bound: largest |log-scale| of one layer.
    """
    options = Coupling(hidden, blocks, network, split, parity)
    spec = describe("affine_coupling", **options._asdict(), bound=bound)
    return coupling(spec, options, 2, *_affine(bound))


@factory
def conditional_coupling(
    *, context: int, hidden: int, blocks: int = 2, split: str = "half", parity: int = 0, bound: float = 2.0
) -> Bijector:
    """`affine_coupling` whose dense network sees a vector c too: (t, r) = N(u_A, c), v_B = u_B exp(s) + t.

    c stands among the parameters, as the leaf "context", zeros when fresh; `given` puts another there. So a flow of such
    layers is, for any c, a flow like all others.

    Args:
        context: entries of c.
        hidden, blocks, split, parity, bound: as `affine_coupling`.
    """
    if context < 1:
        raise ValueError(f"expected context >= 1; got {context}")
    options = Coupling(hidden, blocks, "dense", split, parity)
    described = {"hidden": hidden, "blocks": blocks, "split": split, "parity": parity}
    spec = describe("conditional_coupling", context=context, **described, bound=bound)
    return coupling(spec, options, 2, *_affine(bound), context=context)


def given(params: Params, context: jax.Array) -> Params:
    """Parameters with ``context`` in every leaf "context", however many layers are stacked in it."""

    def put(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.broadcast_to(context, leaf.shape) if getattr(path[-1], "key", None) == _CONTEXT else leaf

    return jax.tree_util.tree_map_with_path(put, params)


def context_size(params: Params) -> int | None:
    """Entries of the context that parameters, or their shapes, have a place for; None where there is none."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = [leaf.shape[-1] for path, leaf in leaves if getattr(path[-1], "key", None) == _CONTEXT]
    return sizes[0] if sizes else None


_CONTEXT = "context"


def _affine(bound: float) -> tuple[Elementwise, Elementwise]:
    if not bound > 0:
        raise ValueError(f"expected bound > 0; got {bound}")

    def scaled(numbers: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_scale = bound * jnp.tanh(numbers[..., 1] / bound)
        return u * jnp.exp(log_scale) + numbers[..., 0], log_scale

    def unscaled(numbers: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_scale = bound * jnp.tanh(numbers[..., 1] / bound)
        return (v - numbers[..., 0]) * jnp.exp(-log_scale), -log_scale

    return scaled, unscaled


@factory
def additive_coupling(
    *, hidden: int, blocks: int = 2, network: str = "dense", split: str = "half", parity: int = 0
) -> Bijector:
    """v_B = u_B + N(u_A), log-determinant 0; options as `affine_coupling`."""

    def shifted(numbers: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return u + numbers[..., 0], jnp.zeros_like(u)

    def unshifted(numbers: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return v - numbers[..., 0], jnp.zeros_like(v)

    options = Coupling(hidden, blocks, network, split, parity)
    return coupling(describe("additive_coupling", **options._asdict()), options, 1, shifted, unshifted)


class Coupling(NamedTuple):
    """The options that all couplings share, as `affine_coupling` explains them."""

    hidden: int
    blocks: int
    network: str
    split: str
    parity: int


def coupling(
    spec: str, options: Coupling, numbers: int, forth: Elementwise, back: Elementwise, *, context: int = 0
) -> Bijector:
    """A coupling layer of any elementwise map.

    Args:
        spec: canonical JSON from `describe`.
        options: network and split.
        numbers: how many numbers the map takes an entry.
        forth: ``(numbers, u) -> (v, log dv/du)`` elementwise, numbers of shape (*u.shape, numbers); the identity at 0.
        back: its inverse, ``(numbers, v) -> (u, log du/dv)``.
        context: entries of a vector among the parameters that a dense network sees as well; 0 for none.
    """
    _check(options)

    def conditioner(halves: _Halves) -> ResidualNetwork:
        outputs = halves.features * numbers
        return ResidualNetwork(outputs, options.hidden, options.blocks, spatial=options.network == "conv")

    def init(key: jax.Array, shape: Shape) -> Params:
        halves = _halves(options.network, options.split, options.parity, shape)
        kept = halves.kept(jnp.zeros(shape))
        if not context:
            return fresh_parameters(key, conditioner(halves), kept)
        nothing = jnp.zeros(context, kept.dtype)
        return {"network": fresh_parameters(key, conditioner(halves), jnp.concatenate([kept, nothing])), _CONTEXT: nothing}

    def run(elementwise: Elementwise, params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        halves = _halves(options.network, options.split, options.parity, u.shape)
        changed, kept = halves.changed(u), halves.kept(u)
        network, seen = (params["network"], jnp.concatenate([kept, params[_CONTEXT]])) if context else (params, kept)
        output: Any = conditioner(halves).apply({"params": network}, seen)
        image, log_slope = elementwise(output.reshape(*changed.shape, numbers), changed)
        return halves.join(u, image), halves.total(log_slope)

    def forward(params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return run(forth, params, u)

    def inverse(params: Params, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return run(back, params, v)

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return forward(params, u)[0]

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        return inverse(params, v)[0], no_work(v.dtype, evaluations=1)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return forward(params, u)[1]

    def estimate(key: jax.Array, estimator: object, params: Params, u: jax.Array) -> tuple[jax.Array, LogDet]:
        del key, estimator
        v, value = forward(params, u)
        return v, LogDet.exact(value)

    def output_shape(shape: Shape) -> Shape:
        _halves(options.network, options.split, options.parity, shape)
        return shape

    bijector = layer(
        spec=spec, init=init, transform=transform, invert=invert, log_det=log_det, output_shape=output_shape, blocks=1
    )
    # one evaluation of the network, and one transposed, where the value and its log-determinant are asked for together
    return bijector._replace(forward=forward, inverse=inverse, estimate=estimate)


def alternating(make: Callable[..., Bijector], layers: int) -> Bijector:
    """``layers`` couplings of alternating parity as one scan over pairs: compile time is flat in ``layers``.

    Args:
        make: ``parity=... -> coupling``.
        layers: how many, even, so that every entry is changed as often as any other.
    """
    if layers < 2 or layers % 2:
        raise ValueError(f"expected an even number of layers, at least 2; got {layers}")
    return scan_chain(chain(make(parity=0), make(parity=1)), layers // 2)


def _check(options: Coupling) -> None:
    if options.hidden < 1 or options.blocks < 1:
        raise ValueError(f"expected hidden >= 1 and blocks >= 1; got {options.hidden} and {options.blocks}")
    if options.network not in ("dense", "conv"):
        raise ValueError(f"expected network to be 'dense' or 'conv'; got {options.network!r}")
    if options.split not in ("half", "checkerboard"):
        raise ValueError(f"expected split to be 'half' or 'checkerboard'; got {options.split!r}")
    if options.parity not in (0, 1):
        raise ValueError(f"expected parity 0 or 1; got {options.parity!r}")


class _Halves(NamedTuple):
    """A split of events of one shape.

    Attributes:
        features: outputs the network owes the map, times the numbers an entry: entries (dense) or channels (conv).
        kept: ``u -> what the network sees``.
        changed: ``u -> the entries to be mapped``.
        join: ``(u, image) -> u`` with the changed entries replaced.
        total: ``log-slopes of the changed entries -> their sum``.
    """

    features: int
    kept: Callable[[jax.Array], jax.Array]
    changed: Callable[[jax.Array], jax.Array]
    join: Callable[[jax.Array, jax.Array], jax.Array]
    total: Callable[[jax.Array], jax.Array]


@functools.cache
def _halves(network: str, split: str, parity: int, shape: Shape) -> _Halves:
    if network == "dense":
        return _flat_halves(split, parity, shape)
    if len(shape) != 3:
        raise ValueError(f"expected an image (height, width, channels); got {shape}")
    return _channel_halves(parity, shape) if split == "half" else _checkerboard(parity, shape)


def _flat_halves(split: str, parity: int, shape: Shape) -> _Halves:
    size = math.prod(shape)
    if size < 2:
        raise ValueError(f"expected an event of at least two entries to split; got shape {shape}")
    # slices and not gathers: what a slice passes back is padded, what a gather passes back is scattered entry by entry
    middle = size // 2
    first, second = (slice(middle), slice(middle, size)) if split == "half" else (slice(0, size, 2), slice(1, size, 2))
    kept, changed = (first, second) if parity == 0 else (second, first)

    def join(u: jax.Array, image: jax.Array) -> jax.Array:
        unchanged = u.reshape(-1)[kept]
        before, after = (unchanged, image) if parity == 0 else (image, unchanged)
        if split == "half":
            return jnp.concatenate([before, after]).reshape(shape)
        # of an odd number of entries the first and the last are of the same parity
        paired = jnp.stack([before, jnp.pad(after, (0, before.size - after.size))], axis=1)
        return paired.reshape(-1)[:size].reshape(shape)

    return _Halves(
        features=len(range(size)[changed]),
        kept=lambda u: u.reshape(-1)[kept],
        changed=lambda u: u.reshape(-1)[changed],
        join=join,
        total=jnp.sum,
    )


def _channel_halves(parity: int, shape: Shape) -> _Halves:
    channels = shape[2]
    if channels < 2:
        raise ValueError(f"expected an image of at least two channels to split; got {shape}")
    first, second = slice(0, channels // 2), slice(channels // 2, channels)
    kept, changed = (first, second) if parity == 0 else (second, first)

    def join(u: jax.Array, image: jax.Array) -> jax.Array:
        parts = (u[..., kept], image) if parity == 0 else (image, u[..., kept])
        return jnp.concatenate(parts, axis=-1)

    return _Halves(
        features=changed.stop - changed.start,
        kept=lambda u: u[..., kept],
        changed=lambda u: u[..., changed],
        join=join,
        total=jnp.sum,
    )


def _checkerboard(parity: int, shape: Shape) -> _Halves:
    if shape[0] * shape[1] < 2:
        raise ValueError(f"expected an image of at least two pixels to split; got {shape}")
    rows, columns = np.indices(shape[:2])
    is_changed = ((rows + columns) % 2 == 1 - parity)[..., None]
    return _Halves(
        features=shape[2],
        kept=lambda u: jnp.where(is_changed, 0.0, u),
        changed=lambda u: u,
        join=lambda u, image: jnp.where(is_changed, image, u),
        total=lambda log_slope: jnp.sum(jnp.where(is_changed, log_slope, 0.0)),
    )


EXAMPLES = {
    "conditional_coupling": [(conditional_coupling(context=3, hidden=4, blocks=1, split="checkerboard"), (2, 3))],
    "affine_coupling": [
        (affine_coupling(hidden=5), (5,)),
        (affine_coupling(hidden=4, blocks=1, split="checkerboard", parity=1, bound=0.5), (3, 1)),
        (affine_coupling(hidden=3, blocks=1, network="conv"), (2, 2, 3)),
        (affine_coupling(hidden=3, blocks=1, network="conv", split="checkerboard", parity=1), (3, 3, 1)),
    ],
    "additive_coupling": [
        (additive_coupling(hidden=4, blocks=1, parity=1), (3,)),
        (additive_coupling(hidden=3, blocks=1, network="conv", split="checkerboard"), (2, 3, 1)),
        (additive_coupling(hidden=3, blocks=1, network="conv", parity=1), (2, 2, 3)),
    ],
}
