"""The classifier beside a flow: its formula against flax's layers, the moments it takes, chances before training, refusals."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.networks.prediction_head import (
    check_head,
    fresh_head,
    head_logits,
    head_loss,
    head_widths,
    reads_events,
    weighted_moments,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
# events, hidden layers, and the shape of the moments
CASES = [((4,), (), (4,)), ((2, 3), (), (6,)), ((4,), (5, 3), (4,)), ((7, 6), (3, 4), (1, 1)), ((8, 5, 2), (3,), (1, 1, 2))]


class _Layers(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, t):
        for width in self.widths:
            t = nn.relu(nn.Conv(width, (3, 3), strides=2)(t) if t.ndim == 4 else nn.Dense(width)(t))
        return t.reshape(len(t), -1)


def head_of(event_shape, hidden, classes=3):
    """A head of random numbers."""
    params = fresh_head(KEY, event_shape, classes, hidden)
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.asarray(RNG.standard_normal(leaf.shape), leaf.dtype), params)


def batch_of(event_shape, hidden, count=9):
    """What the head looks at."""
    shape = event_shape if hidden else (int(np.prod(event_shape)),)
    return jnp.asarray(2.0 + 1.5 * RNG.standard_normal((count, *shape)), jnp.float32)


@pytest.mark.parametrize(("event_shape", "hidden", "shape"), CASES)
def test_logits_are_those_of_flax_layers_on_normalised_inputs(event_shape, hidden, shape):
    params, t = head_of(event_shape, hidden), batch_of(event_shape, hidden)
    weights = jnp.asarray([1, 0, 1, 1, 0, 1, 1, 1, 1], jnp.float32)
    mean, variance = weighted_moments(t, weights, params)
    assert mean.shape == variance.shape == params["scale"].shape == shape
    some = np.asarray(t, np.float64)[np.asarray(weights) > 0]
    axes = tuple(axis for axis in range(some.ndim) if axis == 0 or shape[axis - 1] != some.shape[axis])
    np.testing.assert_allclose(mean, some.mean(axis=axes).reshape(shape), rtol=1e-5)
    np.testing.assert_allclose(variance, some.var(axis=axes).reshape(shape), rtol=1e-4)
    normal = params["scale"] * (t - mean) / np.sqrt(variance + 1e-5) + params["bias"]
    image = len(event_shape) > 1 and hidden
    kind = "Conv" if image else "Dense"
    layers = {f"{kind}_{number}": layer for number, layer in params.get("hidden", {}).items()}
    inputs = normal[..., None] if image and len(event_shape) == 2 else normal
    expected = _Layers(tuple(hidden)).apply({"params": layers}, inputs) @ params["weight"]
    np.testing.assert_allclose(head_logits(params, t, mean, variance), expected, rtol=1e-4, atol=1e-5)
    assert reads_events(params) == bool(hidden)
    assert head_widths(params) == list(hidden)
    # bfloat16 has three digits
    half = head_logits(params, t, mean, variance, half=True)
    assert half.dtype == t.dtype
    assert 0 < np.max(np.abs(half - expected)) < 0.03 * np.max(np.abs(expected))


@pytest.mark.parametrize(("event_shape", "hidden", "_"), CASES)
def test_a_fresh_head_gives_every_class_the_same_chance_and_learns(event_shape, hidden, _):
    params, t = fresh_head(KEY, event_shape, 3, hidden), batch_of(event_shape, hidden)
    labels = jnp.asarray([0, 1, 2, -1, 0, 1, 2, 0, -1])
    usable = jnp.arange(9) != 4
    loss = jax.jit(lambda p: head_loss(p, t, usable, labels))
    assert float(loss(params)) == pytest.approx(np.log(3), abs=1e-6)
    # the map starts at nothing, and so the gradient is the map's alone
    params = params | {"weight": params["weight"] - 0.01 * jax.grad(loss)(params)["weight"]}
    assert float(loss(params)) < np.log(3)
    gradient = jax.grad(loss)(params)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_the_loss_is_that_of_the_labelled_and_usable_rows():
    params, t = head_of((4,), (5,)), batch_of((4,), (5,))
    labels = np.array([0, 1, 2, -1, 0, 1, 2, 0, -1])
    usable = np.arange(9) != 4
    logits = np.asarray(head_logits(params, t, *weighted_moments(t, jnp.asarray(usable, t.dtype), params)), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    counted = usable & (labels >= 0)
    expected = -np.mean(log_probs[counted, labels[counted]])
    assert float(head_loss(params, t, jnp.asarray(usable), jnp.asarray(labels))) == pytest.approx(expected, rel=1e-5)
    assert float(head_loss(params, t, jnp.asarray(usable), jnp.full(9, -1))) == 0.0


def test_hidden_layers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"expected head_hidden to be widths >= 1; got \(8, 0\)"):
        check_head((4,), (8, 0), True)
    with pytest.raises(ValueError, match=r"rank 1, 2 or 3 for a head with hidden layers; got shape \(2, 2, 2, 1\)"):
        check_head((2, 2, 2, 1), (8,), True)
    check_head((2, 2, 2, 1), (), False)
