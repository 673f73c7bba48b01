"""Rational-quadratic splines (Durkan et al. 2019, Neural Spline Flows, Sec. 3): couplings, and one map for each entry."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxflows.bijectors.actnorm import check_shared, shared_shape
from jaxflows.bijectors.base import Bijector, Params, Shape, SolveInfo, describe, layer, no_work
from jaxflows.bijectors.coupling import Coupling, Elementwise, coupling
from jaxflows.factory import factory

# numbers of an entrywise spline are so many times its parameters: a step of Adam is of one size for all parameters of a flow,
# and the few of one spline have farther to go than the weights of a network
_HASTE = 4.0


@factory
def spline_coupling(
    *,
    hidden: int,
    blocks: int = 2,
    network: str = "dense",
    split: str = "half",
    parity: int = 0,
    bins: int = 8,
    bound: float = 3.0,
    min_bin: float = 1e-2,
    min_derivative: float = 1e-2,
) -> Bijector:
    """v_B = S(u_B; N(u_A)) with S a monotone rational-quadratic spline on [-bound, bound] and the identity outside it.

    In the bin between knots (x_k, y_k) and (x_k+1, y_k+1), of width w, height h, slope s = h / w and derivatives d_k, d_k+1
    at the knots, with xi = (u - x_k) / w,

        S(u) = y_k + h (s xi^2 + d_k xi (1 - xi)) / (s + (d_k+1 + d_k - 2 s) xi (1 - xi)).

    S is once continuously differentiable, the derivative at both ends being 1, and its inverse is a quadratic root. Starts
    at the identity. Cost: one evaluation of N either way, whose output has 3 bins - 1 numbers an entry.

    Args:
        hidden, blocks, network, split, parity: as `jaxflows.bijectors.coupling.affine_coupling`.
        bins: number of bins, at least 2.
        bound: half the length of the interval.
        min_bin: least width and height of a bin, as a share of the interval.
        min_derivative: least derivative at a knot; the largest is its reciprocal. Ten times the value usual elsewhere, as
            is ``min_bin``, because the inverse divides rounding by the slope. Two steep knots can still flatten the middle
            of the bin between them to a slope near 2 s^2 min_derivative, where float32 loses digits.
    """
    forth, back = _monotone(bins, bound, min_bin, min_derivative)
    options = Coupling(hidden, blocks, network, split, parity)
    spec = describe(
        "spline_coupling", **options._asdict(), bins=bins, bound=bound, min_bin=min_bin, min_derivative=min_derivative
    )
    return coupling(spec, options, 3 * bins - 1, forth, back)


@factory
def elementwise_spline(
    *,
    over: str = "event",
    bins: int = 16,
    low: float = -0.3,
    high: float = 1.3,
    min_bin: float = 2e-2,
    min_derivative: float = 5e-2,
) -> Bijector:
    """v = S(u) entry by entry, S a monotone rational-quadratic spline on [low, high] and the identity outside it.

    Where values gather at a few, as grey levels do at black and white, S spreads those apart and draws together what is between
    them, and what comes behind it sees entries that are nearer to normal. Masks stay what they are:
    p(y_H given y_O) is p(u_H given u_O) of the flow behind, and moves take place there (`jaxflows.flows.entrywise`). Starts at
    the identity; `jaxflows.metrics.fit_nonparanormal` starts it from data, with holes too.

    Args:
        over: what shares one S: 'event' (everything), 'channel' (all but the last axis), 'element' (nothing).
        bins, min_bin, min_derivative: as `spline_coupling`.
        low, high: ends of the interval. The defaults are for grey levels in [0, 1] with noise.

    Cost: no evaluation of a network either way.
    """
    check_shared(over)
    if not low < high:
        raise ValueError(f"expected low < high; got {low}, {high}")
    centre = 0.5 * (low + high)
    forth, back = _monotone(bins, 0.5 * (high - low), min_bin, min_derivative)

    def init(key: jax.Array, shape: Shape) -> Params:
        del key
        return {"numbers": jnp.zeros((*shared_shape(over, shape), 3 * bins - 1))}

    def transform(params: Params, u: jax.Array) -> jax.Array:
        return forth(_HASTE * params["numbers"], u - centre)[0] + centre

    def invert(params: Params, v: jax.Array) -> tuple[jax.Array, SolveInfo]:
        return back(_HASTE * params["numbers"], v - centre)[0] + centre, no_work(v.dtype)

    def log_det(params: Params, u: jax.Array) -> jax.Array:
        return jnp.sum(forth(_HASTE * params["numbers"], u - centre)[1])

    return layer(
        spec=describe(
            "elementwise_spline", over=over, bins=bins, low=low, high=high, min_bin=min_bin, min_derivative=min_derivative
        ),
        init=init, transform=transform, invert=invert, log_det=log_det,
    )  # fmt: skip


def _monotone(bins: int, bound: float, min_bin: float, min_derivative: float) -> tuple[Elementwise, Elementwise]:
    """S and its inverse with their log-slopes; ValueError for options out of range."""
    if bins < 2:
        raise ValueError(f"expected bins >= 2; got {bins}")
    if not bound > 0:
        raise ValueError(f"expected bound > 0; got {bound}")
    if not 0 < min_bin < 1 / bins:
        raise ValueError(f"expected 0 < min_bin < 1 / bins = {1 / bins:.3g}; got {min_bin}")
    if not 0 < min_derivative < 1:
        raise ValueError(f"expected 0 < min_derivative < 1; got {min_derivative}")
    chosen = functools.partial(_bin, bins=bins, bound=bound, min_bin=min_bin, min_derivative=min_derivative)

    def forth(numbers: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside = jnp.abs(u) < bound
        # zero stands in for entries outside, so that neither branch has a value or a gradient that is not finite
        t = jnp.where(inside, u, 0.0)
        b = chosen(numbers, t, by_height=False)
        xi = (t - b.x) / b.width
        v = b.y + b.height * (b.slope * xi**2 + b.left * xi * (1 - xi)) / _denominator(b, xi)
        return jnp.where(inside, v, u), jnp.where(inside, _log_derivative(b, xi), 0.0)

    def back(numbers: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside = jnp.abs(v) < bound
        t = jnp.where(inside, v, 0.0)
        b = chosen(numbers, t, by_height=True)
        xi = _root(b, t - b.y)
        return jnp.where(inside, b.x + b.width * xi, v), jnp.where(inside, -_log_derivative(b, xi), 0.0)

    return forth, back


class _Bin(NamedTuple):
    """The bin that holds each entry: left knot (x, y), width, height, derivatives at both knots, and slope."""

    x: jax.Array
    y: jax.Array
    width: jax.Array
    height: jax.Array
    left: jax.Array
    right: jax.Array
    slope: jax.Array


def _bin(
    numbers: jax.Array, t: jax.Array, *, by_height: bool, bins: int, bound: float, min_bin: float, min_derivative: float
) -> _Bin:
    """The bin of ``t`` along its own axis, in the spline of (..., 3 bins - 1) unconstrained numbers.

    0 gives equal bins and derivatives 1. The bin is found first: what needs a logarithm or a power is then done once.
    """

    def sides(raw: jax.Array) -> jax.Array:
        return 2 * bound * (min_bin + (1 - min_bin * bins) * jax.nn.softmax(raw))

    widths, heights = sides(numbers[..., :bins]), sides(numbers[..., bins : 2 * bins])
    inner_knots = jnp.cumsum((heights if by_height else widths)[..., :-1], axis=-1) - bound
    passed = t[..., None] >= inner_knots

    def derivative(raw: jax.Array) -> jax.Array:
        # exp(c tanh(r / c)) with c = log(1 / min_derivative): the derivatives cannot overflow
        limit = -math.log(min_derivative)
        return jnp.exp(limit * jnp.tanh(raw / limit))

    raw = numbers[..., 2 * bins :]
    if math.prod(numbers.shape[:-1]) == 1 < t.size:
        # one spline for all entries: its bins are a table
        widths, heights = widths.reshape(-1), heights.reshape(-1)
        starts = [jnp.cumsum(lengths) - lengths - bound for lengths in (widths, heights)]
        ends = jnp.pad(derivative(raw.reshape(-1)), 1, constant_values=1.0)
        table = jnp.stack([*starts, widths, heights, ends[:-1], ends[1:], heights / widths], axis=-1)
        return _Bin(*jnp.moveaxis(table[jnp.sum(passed, axis=-1)], -1, 0))
    ones = jnp.ones_like(passed[..., :1])
    chosen = jnp.concatenate([ones, passed], axis=-1) & ~jnp.concatenate([passed, ~ones], axis=-1)

    def start(side: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(passed, side[..., :-1], 0.0), axis=-1) - bound

    def here(values: jax.Array, which: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(which, values, 0.0), axis=-1)

    # at the ends of the interval, where nothing is chosen, the derivative is exp(0) = 1
    width, height = here(widths, chosen), here(heights, chosen)
    left, right = derivative(here(raw, chosen[..., 1:])), derivative(here(raw, chosen[..., :-1]))
    return _Bin(start(widths), start(heights), width, height, left, right, slope=height / width)


def _denominator(b: _Bin, xi: jax.Array) -> jax.Array:
    return b.slope + (b.right + b.left - 2 * b.slope) * xi * (1 - xi)


def _log_derivative(b: _Bin, xi: jax.Array) -> jax.Array:
    rise = b.right * xi**2 + 2 * b.slope * xi * (1 - xi) + b.left * (1 - xi) ** 2
    return 2 * jnp.log(b.slope) + jnp.log(rise) - 2 * jnp.log(_denominator(b, xi))


def _root(b: _Bin, rise: jax.Array) -> jax.Array:
    """xi in [0, 1] with S(x_k + w xi) = y_k + rise: the root of A xi^2 + B xi + C that has A xi + B / 2 > 0.

    Of its two forms the one without cancellation is taken: 2 C / (-B - sqrt(D)) where B >= 0, (sqrt(D) - B) / (2 A) where
    B < 0, A being at least h s there.
    """
    curvature = b.right + b.left - 2 * b.slope
    square = b.height * (b.slope - b.left) + rise * curvature
    linear = b.height * b.left - rise * curvature
    constant = -b.slope * rise
    root = jnp.sqrt(jnp.maximum(linear**2 - 4 * square * constant, jnp.finfo(rise.dtype).tiny))
    rising = linear >= 0
    small = 2 * constant / jnp.where(rising, -linear - root, -1.0)
    large = (root - linear) / jnp.where(rising, 1.0, 2 * square)
    return jnp.where(rising, small, large)


EXAMPLES = {
    "elementwise_spline": [
        (elementwise_spline(bins=4, min_bin=0.1, min_derivative=0.2), (4,)),
        (elementwise_spline(over="element", bins=3, low=-2.0, high=1.0, min_bin=0.2, min_derivative=0.2), (2, 2)),
        (elementwise_spline(over="channel", bins=2, min_bin=0.2, min_derivative=0.2), (2, 2, 3)),
    ],
    "spline_coupling": [
        (spline_coupling(hidden=5), (5,)),
        (spline_coupling(hidden=4, blocks=1, split="checkerboard", parity=1, bins=2, bound=1.0, min_bin=0.1), (4,)),
        (spline_coupling(hidden=3, blocks=1, network="conv", bins=3, min_derivative=0.1), (2, 2, 2)),
    ],
}
